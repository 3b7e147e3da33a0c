"""A gateway and a tiny model in one process, whose steps take as long as those of a larger model.

A step sleeps before it computes, so that the machine's time is left for what is measured: the gateway, the scheduler
and the clients. As a program it serves until its standard input ends:

    python -m tests.bench.busy_server '{"step_s": 0.02, "engine": {"max_running": 8}, "server": {"port": 50171}}'
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.scheduler import StepPlan
from qwire.models.checkpoint import Checkpoint
from qwire.rpc.config import HealthConfig, ServerConfig
from qwire.rpc.registry import ModelRegistry, ServedModel
from qwire.rpc.server import GatewayServer
from qwire.telemetry.setup import Telemetry
from qwire.text.generator import Generator as TextGenerator
from qwire.text.processor import TextProcessor
from tests.support.tiny_checkpoint import write_tiny_checkpoint

_CALM = HealthConfig(probe_interval_s=3600.0)


@asynccontextmanager
async def busy_server(
    step_s: float,
    engine: dict[str, Any],
    server: dict[str, Any],
    *,
    telemetry: Telemetry | None = None,
    computed: Callable[[StepPlan], None] = lambda _: None,
) -> AsyncGenerator[tuple[GatewayServer, LocalEngine, int]]:
    """Serve a tiny model as long as the context lasts; yield the server, the engine and the port.

    Args:
        step_s: How long each step sleeps, seconds.
        engine: Options of `EngineConfig`.
        server: Options of `ServerConfig`.
        telemetry: Where spans go.
        computed: Called from the engine's thread after each step.
    """
    folder = write_tiny_checkpoint(Path(tempfile.mkdtemp()))
    execute = ModelRunner.execute

    def slow(runner: ModelRunner, plan: StepPlan) -> StepResult:
        time.sleep(step_s)
        result = execute(runner, plan)
        computed(plan)
        return result

    ModelRunner.execute = slow  # pyright: ignore[reportAttributeAccessIssue]
    try:
        config = EngineConfig(device="cpu", threads=1, quantization="none", **engine)
        local = await LocalEngine.start(Checkpoint(folder, "tiny", "", "", "", ""), config)
        card = await local.card()
        model = ServedModel(card, TextGenerator(TextProcessor.from_folder(folder), local, card), local)
        gateway = GatewayServer(ModelRegistry((), [model]), ServerConfig(**server, health=_CALM), telemetry)
        port = await gateway.start()
        try:
            yield gateway, local, port
        finally:
            await gateway.drain(0)
            await local.close()
    finally:
        ModelRunner.execute = execute


@contextmanager
def server_process(step_s: float, engine: dict[str, Any], server: dict[str, Any]) -> Generator[subprocess.Popen[str]]:
    """Run the server in a process of its own; it listens on the port of `server`."""
    options = json.dumps({"step_s": step_s, "engine": engine, "server": server})
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.busy_server", options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "serving\n", "the server did not start"
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


async def main() -> None:
    options = json.loads(sys.argv[1])
    async with busy_server(options["step_s"], options["engine"], options["server"]):
        print("serving", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
