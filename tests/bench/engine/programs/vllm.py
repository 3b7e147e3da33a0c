"""vLLM as a side, in an environment of its own."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.bench.engine.programs.answering import Answer, Requests, in_loop, play, serve


def main() -> None:
    """Answer."""
    options = json.loads(sys.argv[1])
    engines: list[Any] = []
    with asyncio.Runner() as runner:

        def load() -> Callable[[Requests], Answer]:
            vllm: Any = importlib.import_module("vllm")
            sampling: Any = importlib.import_module("vllm.sampling_params")
            arguments = vllm.AsyncEngineArgs(
                model=options["folder"],
                dtype=options["dtype"],
                max_model_len=options["context_tokens"],
                max_num_seqs=options["streams"],
                enforce_eager=True,
            )
            engine = runner.run(_start(vllm, arguments))
            engines.append(engine)

            async def stream(_: int, request: dict[str, Any]) -> AsyncIterator[list[int]]:
                parameters = vllm.SamplingParams(
                    temperature=0.0,
                    max_tokens=request["tokens"],
                    ignore_eos=True,
                    detokenize=False,
                    output_kind=sampling.RequestOutputKind.DELTA,
                )
                prompt = vllm.TokensPrompt(prompt_token_ids=request["prompt"])
                async for output in engine.generate(prompt, parameters, uuid.uuid4().hex):
                    yield list(output.outputs[0].token_ids)

            return in_loop(runner, lambda requests: play(requests, stream))

        serve(load)
        engines[0].shutdown()  # it computes in a process of its own


async def _start(vllm: Any, arguments: Any) -> Any:
    return vllm.AsyncLLMEngine.from_engine_args(arguments)


if __name__ == "__main__":
    main()
