"""transformers' `generate` as a side, one request after the other."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from transformers.generation.streamers import BaseStreamer

from tests.bench.engine.programs.answering import Answer, Requests, serve
from tests.bench.engine.programs.transformers_model import device_bytes, load_model

_GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "temperature": None, "top_p": None, "top_k": None}


class _Clock(BaseStreamer):
    """Notes when tokens come; the prompt comes first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Take the next tokens."""
        del value
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: a generation is over when it returns."""


def main() -> None:
    """Answer."""
    options = json.loads(sys.argv[1])

    def load() -> Callable[[Requests], Answer]:
        model = load_model(options)

        def answer(requests: Requests) -> Answer:
            began = time.perf_counter()
            answers: list[Answer] = []
            for request in requests:
                time.sleep(max(0.0, request["at_s"] - (time.perf_counter() - began)))
                ids = torch.tensor([request["prompt"]], device=options["device"])
                lengths = {"min_new_tokens": request["tokens"], "max_new_tokens": request["tokens"]}
                clock = _Clock()
                mask = torch.ones_like(ids)
                output = model.generate(ids, attention_mask=mask, streamer=clock, **lengths, **_GREEDY)
                times = [at - began for at in clock.times[1:]]
                answers.append({"times_s": times, "output": output[0, ids.shape[1] :].tolist()})
            return {"seconds": time.perf_counter() - began, "requests": answers}

        return answer

    serve(load, device_bytes)


if __name__ == "__main__":
    main()
