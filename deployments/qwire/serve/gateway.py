"""The gateway: the gRPC server of `qwire.rpc` as a Ray Serve deployment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from qwire.rpc.registry import ModelRegistry
from qwire.rpc.server import GatewayServer
from qwire.serve.attach import every_model_serves
from qwire.serve.config import AppConfig
from qwire.serve.remote_models import attach_remote
from qwire.telemetry.logging import get_logger
from qwire.telemetry.setup import configure

log = get_logger(__name__)


class Gateway:
    """Listens when every model has a replica that answers, or after `listen_timeout_s`.

    Gateways on one node share the port, and one that cannot serve yet would take calls from one that can.

    Args:
        config: The whole application.
        cache_dir: Where model files are kept on this machine; the gateway reads tokenizers from it.
        replicas: The deployment of each model, by served id.
        runners: What works on batch jobs: named here so that it is deployed; None = nothing does.
    """

    async def __init__(
        self,
        config: AppConfig,
        cache_dir: Path,
        replicas: dict[str, DeploymentHandle[Any]],
        runners: DeploymentHandle[Any] | None,  # noqa: ARG002 - see above
    ) -> None:
        self._application = config, cache_dir
        self._telemetry = configure(config.telemetry)
        self._registry = ModelRegistry([model.served_id for model in config.models])
        self._server = GatewayServer(self._registry, config.gateway.server, self._telemetry)
        self._attaching = attach_remote(self._registry, config, cache_dir, replicas, self._telemetry)
        await asyncio.wait((self._attaching,), timeout=config.gateway.listen_timeout_s)
        await self.check_health()
        port = await self._server.start()
        log.info("gateway_listening", host=config.gateway.server.host, port=port)

    async def drain(self) -> None:
        """Refuse new calls, let open streams finish within the grace, stop listening. Idempotent."""
        await self._server.drain()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaling policy how much there is to do."""
        return {"open_streams": self._server.open_streams}

    async def serves(self) -> bool:
        """Whether every model has generated a token and still serves."""
        return every_model_serves(self._server)

    async def application(self) -> tuple[AppConfig, Path]:
        """Return the whole application, and where model files are kept: for whoever joins it from outside."""
        return self._application

    async def check_health(self) -> None:
        """Let Serve restart this gateway when a model could not be attached for good."""
        if self._attaching.done():
            self._attaching.result()

    async def __del__(self) -> None:
        """Drain; Serve awaits this when the gateway is to go."""
        self._attaching.cancel()
        await self.drain()
        self._telemetry.shutdown()
