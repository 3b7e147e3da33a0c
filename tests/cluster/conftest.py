"""A real Ray cluster on this machine with a gateway and two tiny models."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwire.client import AsyncClient
from qwire.engine.config import EngineConfig
from qwire.engine.protocol import EngineStats
from qwire.rpc.config import BatchConfig, HealthConfig, ServerConfig
from qwire.serve.config import AppConfig, GatewaySettings, ModelSettings, ReplicaSettings
from qwire.telemetry.setup import TelemetryConfig
from tests.bench.local_ray import local_ray
from tests.support.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.support.peft_adapter import write_adapter
from tests.support.tiny_checkpoint import write_tiny_checkpoint

APP = "qwire"
NO_JOBS = BatchConfig(store_url="")
FAST = HealthConfig(probe_interval_s=0.5, starting_interval_s=0.1, probe_timeout_s=5.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts Ray, which leaves files and sockets of its own to the garbage collector."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning"))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two different tiny models."""
    return (
        write_tiny_checkpoint(tmp_path_factory.mktemp("tiny-a"), seed=1),
        write_tiny_checkpoint(tmp_path_factory.mktemp("tiny-b"), seed=2),
    )


@pytest.fixture(scope="session")
def adapters(tiny_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter `fine` of the first model, and `broken`, which cannot be applied."""
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(tiny_folders[0], folder / "fine")
    (write_adapter(tiny_folders[0], folder / "broken") / "adapter_model.safetensors").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="session")
def collector() -> Generator[OtlpReceiver]:
    """Where the spans and metrics of all processes go."""
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def ray_cluster() -> Generator[None]:
    """Ray and Serve, without an application."""
    with local_ray():
        yield


@dataclass(frozen=True, slots=True)
class Cluster:
    """A deployed application."""

    config: AppConfig
    app: str = APP

    @property
    def target(self) -> str:
        """Where its gateway listens."""
        server = self.config.gateway.server
        return f"{server.host}:{server.port}"

    def deploy(self) -> None:
        """Deploy it and wait until every replica runs."""
        from ray import serve  # noqa: PLC0415 - as above

        from qwire.serve.app import build  # noqa: PLC0415 - as above

        serve.run(build(self.config), name=self.app, route_prefix=None)

    def replicas(self, model: str) -> Any:
        """The handle of a model's deployment."""
        from ray import serve  # noqa: PLC0415 - as above

        return serve.get_deployment_handle(f"model-{model}", self.app)

    async def stats(self, model: str) -> list[EngineStats]:
        """What each replica of a model reports."""
        return await self.replicas(model).broadcast("stats").results_async(timeout_s=10)


def app_config(
    folders: dict[str, Path],
    telemetry: TelemetryConfig | None = None,
    adapters: Path | None = None,
    **replicas: Any,
) -> AppConfig:
    """An application of tiny models on a free port."""
    engine = EngineConfig(
        device="cpu",
        threads=1,
        max_running=8,
        max_waiting=256,
        kv_capacity_tokens=40_000,
        default_max_output_tokens=64,
        adapters_dir=adapters,
    )
    settings = ReplicaSettings.model_validate({"num_cpus": 0.1, "stream_interval_s": 0.0, **replicas})
    return AppConfig(
        models=tuple(
            ModelSettings(source=str(folder), id=name, engine=engine, replicas=settings)
            for name, folder in folders.items()
        ),
        gateway=GatewaySettings(server=ServerConfig(port=free_port(), drain_grace_s=20.0, health=FAST, batch=NO_JOBS)),
        telemetry=telemetry or TelemetryConfig(log_level="WARNING"),
    )


@pytest.fixture(scope="session")
def cluster(
    ray_cluster: None,  # noqa: ARG001
    tiny_folders: tuple[Path, Path],
    adapters: Path,
    collector: OtlpReceiver,
) -> Cluster:
    """Two models behind one gateway, traced."""
    telemetry = TelemetryConfig(otlp_endpoint=collector.endpoint, metric_interval_s=0.5)
    cluster = Cluster(app_config({"tiny-a": tiny_folders[0], "tiny-b": tiny_folders[1]}, telemetry, adapters))
    cluster.deploy()
    return cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncGenerator[AsyncClient]:
    """A client of the shared cluster, once it is ready."""
    async with AsyncClient(cluster.target) as client:
        await ready(client)
        yield client


async def ready(client: AsyncClient) -> None:
    """Wait until every model serves."""
    async with client.watch_health(timeout_s=60) as states:
        async for health in states:
            if health.state.serves:
                return
    raise AssertionError("never ready")
