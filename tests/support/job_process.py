"""A gateway with a job store, or a runner on an engine that echoes: processes for tests to kill."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

from qwire.engine.errors import EngineUnavailable
from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.rpc.registry import ModelRegistry
from qwire.text.processor import TextProcessor
from tests.contract.edge import CALM, card_of, open_edge, served

_REPLACED_S = 0.3


async def main(store_url: str, tokenizer: str, port: str) -> None:
    """Serve on a port until killed, or work where it is 0. SIGUSR1 takes the runner's replica away for a moment."""
    processor = TextProcessor.from_folder(Path(tokenizer))
    batch = BatchConfig(store_url=store_url, store_wait_s=0.5, lease_s=1.0, checkpoint_s=0.1, runner_concurrency=16)
    engine = FakeEngine(card=card_of(processor), step_s=0.01, failure=EngineUnavailable(0.1))
    model = await served(processor, engine)
    if int(port):
        async with open_edge([model], config=replace(CALM, port=int(port), batch=batch)):
            await _serve()
    loop = asyncio.get_running_loop()

    def lose() -> None:
        engine.fail_after = 0
        loop.call_later(_REPLACED_S, setattr, engine, "fail_after", None)

    loop.add_signal_handler(signal.SIGUSR1, lose)
    await BatchRunner(ModelRegistry([], [model]), batch).start()
    await _serve()


async def _serve() -> None:
    print("serving", flush=True)  # noqa: T201 - the test waits for it
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
