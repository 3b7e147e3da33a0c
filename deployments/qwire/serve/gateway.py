"""The gateway: the gRPC server of `qwire.rpc` as a Ray Serve deployment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from qwire.rpc.registry import ModelRegistry
from qwire.rpc.server import GatewayServer
from qwire.serve.attach import attach, every_model_serves
from qwire.serve.config import AppConfig
from qwire.serve.handle import ReplicaHandle
from qwire.serve.remote import RemoteEngine
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.logging import get_logger
from qwire.telemetry.setup import configure

log = get_logger(__name__)


class Gateway:
    """Listens at once, not serving; each model joins when its first replica answers.

    Args:
        config: The whole application.
        cache_dir: Where model files are kept on this machine; the gateway reads tokenizers from it.
        replicas: The deployment of each model, by served id.
    """

    async def __init__(self, config: AppConfig, cache_dir: Path, replicas: dict[str, DeploymentHandle[Any]]) -> None:
        self._telemetry = configure(config.telemetry)
        registry = ModelRegistry([model.served_id for model in config.models])
        self._server = GatewayServer(registry, config.gateway.server, self._telemetry)
        port = await self._server.start()
        log.info("gateway_listening", host=config.gateway.server.host, port=port)
        engines = {
            model.served_id: RemoteEngine(
                ReplicaHandle(replicas[model.served_id]),
                model.replicas,
                FailoverRecorder(self._telemetry, model.served_id),
            )
            for model in config.models
        }
        self._attaching = asyncio.gather(
            *(attach(registry, model, engines[model.served_id], cache_dir) for model in config.models)
        )

    async def drain(self) -> None:
        """Refuse new calls, let open streams finish within the grace, stop listening. Idempotent."""
        await self._server.drain()

    async def serves(self) -> bool:
        """Whether every model has generated a token and still serves."""
        return every_model_serves(self._server)

    async def check_health(self) -> None:
        """Let Serve restart this gateway when a model could not be attached for good."""
        if self._attaching.done():
            self._attaching.result()

    async def __del__(self) -> None:
        """Drain; Serve awaits this when the gateway is to go."""
        self._attaching.cancel()
        await self.drain()
        self._telemetry.shutdown()
