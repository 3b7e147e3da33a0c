"""The processes that the benchmark of jobs measures: a gateway, and a runner with an engine that echoes."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.rpc.registry import ModelRegistry
from qwire.text.processor import TextProcessor
from tests.contract.edge import CALM, card_of, open_edge, served

_FORGET_S = 1.0


async def main(role: str, store_url: str, tokenizer: str) -> None:
    """Say the port, or 0, and work until killed."""
    processor = TextProcessor.from_folder(Path(tokenizer))
    batch = BatchConfig(store_url=store_url, runner_concurrency=256)
    engine = FakeEngine(card=card_of(processor), max_running=256, max_waiting=256)
    model = await served(processor, engine)
    if role == "gateway":
        async with open_edge([model], config=replace(CALM, batch=batch)) as edge:
            print(edge.port, flush=True)
            await asyncio.Event().wait()
    await BatchRunner(ModelRegistry([], [model]), batch).start()
    print(0, flush=True)
    while True:  # the engine remembers its requests for tests
        await asyncio.sleep(_FORGET_S)
        for told in (engine.requests, engine.started, engine.ended):
            told.clear()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
