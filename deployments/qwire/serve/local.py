"""Gateway and engine in one process, without Ray: for debugging, and to see what Ray costs."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Self

from qwire.engine.checkpoint_config import UnsupportedCheckpoint
from qwire.engine.errors import EngineError
from qwire.engine.protocol import Engine
from qwire.models.store import ModelStore
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.server import GatewayServer
from qwire.serve.attach import attach, every_model_serves
from qwire.serve.config import AppConfig
from qwire.serve.environment import cache_dir, state_dir
from qwire.serve.model_engine import start_engine
from qwire.serve.recorded_engine import RecordedEngine
from qwire.serve.recorder import GenerationRecorder
from qwire.serve.startup import ServeUntilStopped, StartError, Startup
from qwire.telemetry.setup import Telemetry, configure


@dataclass(slots=True)
class LocalServer:
    """A running gateway with its engines."""

    telemetry: Telemetry
    server: GatewayServer
    engines: list[Engine]
    runner: BatchRunner | None = None

    @classmethod
    async def start(cls, config: AppConfig) -> Self:
        """Load every model, listen, and attach them."""
        config = config.with_job_store(state_dir())
        files = cache_dir(config.cache_dir)
        telemetry = configure(config.telemetry)
        registry = ModelRegistry([model.served_id for model in config.models])
        local = cls(telemetry, GatewayServer(registry, config.gateway.server, telemetry), [])
        await local.server.start()
        for model in config.models:
            checkpoint = await asyncio.to_thread(ModelStore(files).resolve, model.source)
            engine = await start_engine(model, checkpoint, files)
            recorded = RecordedEngine(engine, GenerationRecorder(telemetry, model.served_id, replica="local"))
            local.engines.append(recorded)
            await attach(registry, checkpoint, recorded)
        if config.gateway.server.batch.store_url:
            local.runner = BatchRunner(registry, config.gateway.server.batch)
            await local.runner.start()
        return local

    async def serves(self) -> bool:
        """Whether every model has generated a token and still serves."""
        return every_model_serves(self.server)

    async def stop(self) -> None:
        """Drain, then close the engines."""
        if self.runner is not None:
            await self.runner.close()
        await self.server.drain()
        for engine in self.engines:
            await engine.close()
        self.telemetry.shutdown()


def serve_without_ray(config: AppConfig, startup: Startup, serve_until_stopped: ServeUntilStopped) -> None:
    """Start, call `serve_until_stopped`, then drain and stop. The server's event loop has a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
    thread.start()
    try:
        with startup.phase("load weights"):
            try:
                local = asyncio.run_coroutine_threadsafe(LocalServer.start(config), loop).result()
            except (EngineError, UnsupportedCheckpoint, ValueError, RuntimeError, OSError) as error:
                raise StartError(str(error)) from error
        serve_until_stopped(lambda: asyncio.run_coroutine_threadsafe(local.serves(), loop).result())
        with startup.phase("drain"):
            asyncio.run_coroutine_threadsafe(local.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
