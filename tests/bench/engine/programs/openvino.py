"""OpenVINO GenAI's continuous batching as a side, in an environment of its own."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench.engine.programs.answering import Answer, Requests, serve


def main() -> None:
    """Answer."""
    options = json.loads(sys.argv[1])

    def load() -> Callable[[Requests], Answer]:
        genai: Any = importlib.import_module("openvino_genai")
        openvino: Any = importlib.import_module("openvino")
        numpy: Any = importlib.import_module("numpy")
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = options["streams"]
        scheduler.enable_prefix_caching = True
        threads = {"INFERENCE_NUM_THREADS": options["threads"]}
        pipeline = genai.ContinuousBatchingPipeline(options["folder"], scheduler, "CPU", threads)
        names = iter(range(1 << 62))

        def submit(request: dict[str, Any]) -> Any:
            generation = genai.GenerationConfig(
                max_new_tokens=request["tokens"], min_new_tokens=request["tokens"], ignore_eos=True, do_sample=False
            )
            ids = openvino.Tensor(numpy.array([request["prompt"]], dtype=numpy.int64))
            return pipeline.add_request(next(names), ids, generation)

        return lambda requests: _answer(pipeline, submit, requests)

    serve(load)


def _answer(pipeline: Any, submit: Callable[[dict[str, Any]], Any], requests: Requests) -> Answer:
    began = time.perf_counter()
    waiting, handles = list(requests), list[Any]()
    answers: list[Answer] = [{"times_s": [], "output": []} for _ in requests]
    while waiting or pipeline.has_non_finished_requests():
        while waiting and waiting[0]["at_s"] <= time.perf_counter() - began:
            handles.append(submit(waiting.pop(0)))
        if not pipeline.has_non_finished_requests():
            time.sleep(max(0.0, waiting[0]["at_s"] - (time.perf_counter() - began)))
            continue
        pipeline.step()
        now = time.perf_counter() - began
        for handle, own in zip(handles, answers, strict=False):
            while handle.can_read():
                for part in handle.read().values():
                    own["times_s"] += [now] * len(part.generated_ids)
                    own["output"] += part.generated_ids
    return {"seconds": time.perf_counter() - began, "requests": answers}


if __name__ == "__main__":
    main()
