"""The runner of batch jobs as a Ray Serve deployment. Nobody calls it: it asks the job store for work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.registry import ModelRegistry
from qwire.serve.config import AppConfig
from qwire.serve.remote_models import attach_remote
from qwire.telemetry.setup import configure


class BatchWorker:
    """Works on jobs as long as it lives; several share a store without knowing of each other.

    Args:
        config: The whole application.
        cache_dir: Where model files are kept on this machine; tokenizers are read from it.
        replicas: The deployment of each model, by served id.
    """

    async def __init__(self, config: AppConfig, cache_dir: Path, replicas: dict[str, DeploymentHandle[Any]]) -> None:
        self._telemetry = configure(config.telemetry)
        registry = ModelRegistry([model.served_id for model in config.models])
        self._runner = BatchRunner(registry, config.gateway.server.batch)
        self._attaching = attach_remote(registry, config, cache_dir, replicas, self._telemetry)
        await self._runner.start()

    async def check_health(self) -> None:
        """Let Serve restart this worker when a model could not be attached for good."""
        if self._attaching.done():
            self._attaching.result()

    async def __del__(self) -> None:
        """Stop; what is under way keeps what it has, and goes to others."""
        self._attaching.cancel()
        await self._runner.close()
        self._telemetry.shutdown()
