"""An application on Ray whose only replica is a tiny model with the steps of a larger one."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from qwire.rpc.config import HealthConfig
from qwire.serve.config import ReplicaSettings
from qwire.telemetry.setup import TelemetryConfig
from tests.bench.local_ray import local_ray
from tests.bench.slow_step import runtime_env
from tests.chaos import process
from tests.cluster.conftest import APP, Cluster, app_config
from tests.support.tiny_checkpoint import write_tiny_checkpoint

MODEL = "tiny"
_CALM = HealthConfig(probe_interval_s=3600.0)


@dataclass(frozen=True, slots=True)
class BusyCluster:
    """What is measured.

    Attributes:
        cluster: The application.
        record: Has a line for each step, as `slow_step` writes it.
    """

    cluster: Cluster
    record: Path

    @property
    def gateway(self) -> psutil.Process:
        """The process of the gateway."""
        return process.find(f"ray::ServeReplica:{APP}:gateway")[0]

    @property
    def replica(self) -> psutil.Process:
        """The process of the model."""
        return process.find(f"ray::ServeReplica:{APP}:model-{MODEL}")[0]


@contextmanager
def busy_cluster(
    step_s: float,
    engine: dict[str, Any],
    server: dict[str, Any] | None = None,
    *,
    telemetry: TelemetryConfig | None = None,
    ray_config: dict[str, Any] | None = None,
) -> Generator[BusyCluster]:
    """Run it as long as the context lasts.

    Args:
        step_s: How long each step sleeps, seconds.
        engine: Options of `EngineConfig`.
        server: Options of `ServerConfig`.
        telemetry: Where spans and metrics go; None = nowhere.
        ray_config: Settings of Ray's own processes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, record = Path(name), Path(name) / "steps"
        weights = folder / "weights"
        weights.mkdir()
        write_tiny_checkpoint(weights)
        with local_ray(runtime_env(step_s, record), ray_config):
            interval_s = ReplicaSettings().stream_interval_s
            config = app_config({MODEL: weights}, telemetry, stream_interval_s=interval_s)
            (model,) = config.models
            models = (model.model_copy(update={"engine": replace(model.engine, quantization="none", **engine)}),)
            serves = replace(config.gateway.server, health=_CALM, **(server or {}))
            gateway = config.gateway.model_copy(update={"server": serves})
            cluster = Cluster(config.model_copy(update={"models": models, "gateway": gateway}))
            cluster.deploy()
            yield BusyCluster(cluster, record)
