"""The application on a real Ray of its own: a gateway and two replicas of a tiny model."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from qwire.client import AsyncClient, QwireError
from qwire.serve.environment import prepare_ray
from qwire.telemetry.setup import TelemetryConfig
from tests.chaos import process
from tests.chaos.nodes import HEAD_ONLY, ROOM, Nodes
from tests.cluster.conftest import Cluster, app_config
from tests.support.tiny_checkpoint import write_tiny_checkpoint

APP, MODEL, REPLICAS = "chaos", "tiny", 2
_WHOLE_S = 300.0


class Fleet:
    """What faults strike.

    Args:
        cluster: The application.
        size: Replicas of the model.
        nodes: Where it runs, one replica on each; None = all on one node.
    """

    def __init__(self, cluster: Cluster, size: int = REPLICAS, nodes: Nodes | None = None) -> None:
        self.cluster = cluster
        self.size = size
        self.nodes = nodes

    @property
    def replicas(self) -> list[psutil.Process]:
        """The processes of the model."""
        return process.find(f"ray::ServeReplica:{APP}:model-{MODEL}")

    @property
    def gateways(self) -> list[psutil.Process]:
        """The processes of the gateway."""
        return process.find(f"ray::ServeReplica:{APP}:gateway")

    @property
    def controllers(self) -> list[psutil.Process]:
        """The process of Serve's controller."""
        return process.find("ray::ServeController")

    async def whole(self) -> None:
        """Wait until each replica answers, no other one is left, and the gateway serves.

        Raises:
            TimeoutError: It does not recover.
        """
        async with asyncio.timeout(_WHOLE_S), AsyncClient(self.cluster.target) as client:
            while not await self._is_whole(client):  # noqa: ASYNC110 - other processes' state
                await asyncio.sleep(0.2)

    async def redeploy(self) -> None:
        """Replace every process by one of a new configuration, as an operator's update does."""
        config = self.cluster.config
        (model,) = config.models
        changed = model.replicas.model_copy(update={"stall_timeout_s": model.replicas.stall_timeout_s + 1})
        models = (model.model_copy(update={"replicas": changed}),)
        self.cluster = Cluster(config.model_copy(update={"models": models}), app=APP)
        await asyncio.to_thread(self.cluster.deploy)

    async def _is_whole(self, client: AsyncClient) -> bool:
        if (len(self.replicas), len(self.gateways), len(self.controllers)) != (self.size, 1, 1):
            return False
        try:
            health = await client.health()
            stats = await self.cluster.stats(MODEL)
        except QwireError:
            return False
        except Exception as error:
            if isinstance(error, ImportError | AttributeError | TypeError):
                raise
            return False
        return health.state.serves and len(stats) == self.size


@contextmanager
def running(
    quantization: str = "auto",
    size: int = REPLICAS,
    telemetry: TelemetryConfig | None = None,
    ray_config: dict[str, Any] | None = None,
    *,
    on_nodes: bool = False,
    thinking: bool = False,
) -> Generator[Fleet]:
    """Run the application as long as the context lasts.

    Args:
        quantization: Of its model.
        size: Replicas of the model.
        telemetry: Where spans and metrics go; None = nowhere.
        ray_config: Settings of Ray's own processes, where they are on one node.
        on_nodes: Run on two nodes, of which one can be lost: two replicas, one on each.
        thinking: Its model thinks before it answers, unless asked not to.
    """
    prepare_ray()
    import ray  # noqa: PLC0415 - reads its environment when it is imported
    from ray import serve  # noqa: PLC0415 - likewise

    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    nodes = Nodes() if on_nodes else None
    try:
        if nodes is None:
            ray.init(address="local", num_cpus=4, _system_config=ray_config or {}, **options)
        else:
            del options["include_dashboard"]
            ray.init(address=nodes.address, **options)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        with tempfile.TemporaryDirectory() as folder:
            weights = write_tiny_checkpoint(Path(folder), thinking=thinking)
            bounds: dict[str, Any] = {"min_replicas": size, "max_replicas": size, "stream_interval_s": 0.02}
            config = app_config({MODEL: weights}, telemetry, **bounds, **(ROOM if on_nodes else {}))
            (model,) = config.models
            engine = replace(model.engine, quantization=quantization)
            models = (model.model_copy(update={"engine": engine}),)
            gateway = config.gateway.model_copy(update={"num_cpus": HEAD_ONLY if on_nodes else 0.0})
            cluster = Cluster(config.model_copy(update={"models": models, "gateway": gateway}), app=APP)
            cluster.deploy()
            yield Fleet(cluster, size, nodes)
            serve.shutdown()
    finally:
        ray.shutdown()
        if nodes is not None:
            nodes.close()
