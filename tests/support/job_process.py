"""A gateway with a job store and a runner, on an engine that echoes: a process for tests to kill."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.text.processor import TextProcessor
from tests.contract.edge import CALM, card_of, open_edge, served


async def main(store_url: str, tokenizer: str, port: str) -> None:
    """Serve until killed."""
    processor = TextProcessor.from_folder(Path(tokenizer))
    batch = BatchConfig(store_url=store_url, lease_s=1.0, checkpoint_s=0.1, runner_concurrency=16)
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    async with open_edge([await served(processor, engine)], config=replace(CALM, port=int(port), batch=batch)) as edge:
        await BatchRunner(edge.registry, batch).start()
        print("serving", flush=True)  # noqa: T201 - the test waits for it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
