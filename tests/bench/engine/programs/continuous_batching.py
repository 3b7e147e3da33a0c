"""transformers' continuous batching as a side."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from tests.bench.engine.programs.answering import Answer, Requests, serve
from tests.bench.engine.programs.transformers_model import device_bytes, load_model


def main() -> None:
    """Answer."""
    options = json.loads(sys.argv[1])

    def load() -> Callable[[Requests], Answer]:
        model = load_model(options)
        flash = options["attention"] is not None
        if flash:
            model.set_attn_implementation(options["attention"])
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        # Its default is nearly all memory that there is; a part of it holds the requests many times over.
        config = ContinuousBatchingConfig(
            max_requests_per_batch=options["streams"], max_memory_percent=0.2, use_cuda_graph=flash or None
        )
        manager = model.init_continuous_batching(generation, config)
        if flash:
            manager.warmup()  # else its steps are recorded while they are measured
        manager.start()
        return lambda requests: _answer(manager, requests)

    serve(load, device_bytes)


def _answer(manager: Any, requests: Requests) -> Answer:
    began = time.perf_counter()
    answers: dict[str, Answer] = {uuid.uuid4().hex: {"times_s": [], "output": []} for _ in requests}

    def submit() -> None:
        for name, request in zip(answers, requests, strict=True):
            time.sleep(max(0.0, request["at_s"] - (time.perf_counter() - began)))
            manager.add_request(request["prompt"], name, request["tokens"], streaming=True, eos_token_id=-1)

    threading.Thread(target=submit).start()
    left = set(answers)
    while left:
        result = manager.get_result(timeout=1)
        if result is None:
            assert manager.is_running(), "continuous batching ended"
            continue
        assert result.error is None, result.error
        own, now = answers[result.request_id], time.perf_counter() - began
        # Each result has all tokens so far.
        own["times_s"] += [now] * (len(result.generated_tokens) - len(own["times_s"]))
        own["output"] = list(result.generated_tokens)
        if result.is_finished():
            left.remove(result.request_id)
    return {"seconds": time.perf_counter() - began, "requests": list(answers.values())}


if __name__ == "__main__":
    main()
