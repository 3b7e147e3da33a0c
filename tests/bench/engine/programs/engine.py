"""Our engine as a side: `python -m tests.bench.engine.programs.engine '{"folder": ..., "config": {...}}'`."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.checkpoint import Checkpoint
from tests.bench.engine.programs.answering import Answer, Requests, in_loop, play, serve
from tests.bench.engine.programs.transformers_model import device_bytes


def main() -> None:
    """Answer."""
    options = json.loads(sys.argv[1])
    checkpoint = Checkpoint(Path(options["folder"]), "bench", "", "", "", "")
    with asyncio.Runner() as runner:

        def load() -> Callable[[Requests], Answer]:
            engine = runner.run(_start(checkpoint, EngineConfig(**options["config"])))

            async def stream(_: int, request: dict[str, Any]) -> AsyncIterator[list[int]]:
                stop = StopParams(request["tokens"], ignore_eos=True)
                async for chunk in engine.generate(
                    TokenRequest(tuple(request["prompt"]), Envelope(uuid.uuid4().hex), stop)
                ):
                    yield list(chunk.token_ids)

            return in_loop(runner, lambda requests: play(requests, stream))

        serve(load, device_bytes)


async def _start(checkpoint: Checkpoint, config: EngineConfig) -> LocalEngine:
    return await LocalEngine.start(checkpoint, config)


if __name__ == "__main__":
    main()
