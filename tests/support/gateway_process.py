"""A gateway in a process of its own, to be killed: `python -m tests.support.gateway_process FOLDER PORT STEP_S`.

Serves one model without weights that echoes its prompt for ever, with the tokenizer of the folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from qwire.engine.fake import FakeEngine, fake_card
from qwire.rpc.config import ServerConfig
from qwire.rpc.registry import ModelRegistry, ServedModel
from qwire.rpc.server import GatewayServer
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor


async def serve(folder: Path, port: int, step_s: float) -> None:
    """Serve until killed; says its port once it does."""
    processor = TextProcessor.from_folder(folder)
    engine = FakeEngine(card=fake_card(vocabulary_tokens=processor.vocabulary_tokens), step_s=step_s)
    card = await engine.card()
    model = ServedModel(card, Generator(processor, engine, card), engine)
    server = GatewayServer(ModelRegistry([], [model]), ServerConfig(port=port, reuse_port=False))
    sys.stdout.write(f"{await server.start()}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


class GatewayProcess:
    """One such process; `start` again after `kill` takes the same port.

    Args:
        folder: The tokenizer's files.
        step_s: Time between two tokens, seconds.
    """

    def __init__(self, folder: Path, step_s: float = 0.02) -> None:
        self._folder = folder
        self._step_s = step_s
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        arguments = [str(self._folder), str(self.port), str(self._step_s)]
        command = [sys.executable, "-m", "tests.support.gateway_process", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL, as the kernel's memory killer does it."""
        process, self._process = self._process, None
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
