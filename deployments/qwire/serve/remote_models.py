"""The models of an application, as a process that has none of their replicas reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from qwire.models.store import ModelStore
from qwire.rpc.registry import ModelRegistry
from qwire.serve.attach import attach
from qwire.serve.config import AppConfig, ModelSettings
from qwire.serve.handle import ReplicaHandle
from qwire.serve.model_version import model_version
from qwire.serve.remote import RemoteEngine
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.setup import Telemetry


def attach_remote(
    registry: ModelRegistry,
    config: AppConfig,
    cache_dir: Path,
    replicas: Mapping[str, DeploymentHandle[Any]],
    telemetry: Telemetry,
) -> asyncio.Future[list[None]]:
    """Serve each model from the moment its first replica answers.

    Args:
        registry: Where they are served.
        config: Which models, and how they are reached.
        cache_dir: Where model files are kept on this machine; tokenizers are read from it.
        replicas: The deployment of each model, by served id.
        telemetry: Records lost replicas.

    Returns:
        Is done when all of them are served; fails where one never can be.
    """
    store = ModelStore(cache_dir)

    async def attach_one(model: ModelSettings) -> None:
        checkpoint = await asyncio.to_thread(store.resolve, model.source)
        engine = RemoteEngine(
            ReplicaHandle(replicas[model.served_id]),
            model_version(model, checkpoint),
            model.replicas,
            FailoverRecorder(telemetry, model.served_id),
        )
        await attach(registry, checkpoint, engine)

    return asyncio.gather(*map(attach_one, config.models))
