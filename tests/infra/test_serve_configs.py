"""The Serve config files: valid for Ray, valid for us, and consistent with the cluster they run on."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from qwire.serve.config import AppConfig

INFRA = Path(__file__).parents[2] / "infra"
FILES = sorted([*INFRA.glob("serve/*.yaml"), *INFRA.glob("kubernetes/overlays/*/serve.yaml")])


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(INFRA)))
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_one_for_a_laptop_one_for_gpus_and_one_per_overlay() -> None:
    assert [str(path.relative_to(INFRA)) for path in FILES] == [
        "kubernetes/overlays/cpu/serve.yaml",
        "kubernetes/overlays/gpu/serve.yaml",
        "serve/gpu.yaml",
        "serve/local.yaml",
    ]


def test_ray_takes_it(path: Path) -> None:
    schema = ServeDeploySchema.model_validate(_load(path))

    assert schema.proxy_location == "Disabled"
    assert [(app.name, app.import_path, app.route_prefix) for app in schema.applications] == [
        ("qwire", "qwire.serve.app:build", None)
    ]


def test_our_configuration_takes_its_arguments(path: Path) -> None:
    AppConfig.model_validate(_load(path)["applications"][0]["args"])


@pytest.mark.parametrize(
    "keys",
    [
        ["gateway", "server", "prot"],
        ["models", 0, "engine", "quantisation"],
        ["models", 0, "replicas", "gpus"],
        ["telemetry", "otlp"],
    ],
    ids=lambda keys: ".".join(map(str, keys)),
)
def test_a_misspelt_key_is_refused_by_name(keys: list[str | int]) -> None:
    arguments: Any = _load(INFRA / "serve" / "gpu.yaml")["applications"][0]["args"]
    inner = arguments
    for key in keys[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(key, str) else inner[key]
    inner[keys[-1]] = 1

    with pytest.raises(ValidationError, match=str(keys[-1])):
        AppConfig.model_validate(arguments)


def test_a_laptop_serves_on_loopback_without_gpus() -> None:
    config = AppConfig.model_validate(_load(INFRA / "serve" / "local.yaml")["applications"][0]["args"])

    assert config == AppConfig()
    assert config.gateway.server.host == "127.0.0.1"
    assert [model.replicas.num_gpus for model in config.models] == [0]


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_a_drain_in_the_cluster_outlasts_every_generation(overlay: str, rayservice: dict[str, Any]) -> None:
    arguments = _load(INFRA / "kubernetes" / "overlays" / overlay / "serve.yaml")["applications"][0]["args"]
    server = AppConfig.model_validate(arguments).gateway.server
    cluster = rayservice["spec"]["rayClusterConfig"]

    assert server.drain_grace_s >= server.max_deadline_s
    assert rayservice["spec"]["rayClusterDeletionDelaySeconds"] >= server.drain_grace_s
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
        ray_waits_s = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        pre_stop_s = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        assert ray_waits_s > server.drain_grace_s
        assert pod["terminationGracePeriodSeconds"] >= pre_stop_s + ray_waits_s + 30


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_gateways_fit_the_gateway_group(overlay: str, rayservice: dict[str, Any]) -> None:
    application = _load(INFRA / "kubernetes" / "overlays" / overlay / "serve.yaml")["applications"][0]
    config = AppConfig.model_validate(application["args"])
    (gateway,) = application["deployments"]
    groups = {group["groupName"]: group for group in rayservice["spec"]["rayClusterConfig"]["workerGroupSpecs"]}

    assert gateway["name"] == "gateway"
    for resource, amount in gateway["ray_actor_options"]["resources"].items():
        assert amount <= float(groups["gateway"]["resources"][resource])
        assert resource not in groups["replica"].get("resources", {})
    assert config.gateway.min_replicas == groups["gateway"]["minReplicas"]
    assert config.gateway.max_replicas == groups["gateway"]["maxReplicas"]
    assert config.gateway.max_replicas_per_node == 1  # an update stops one before it starts one: a pod holds no two
    port = config.gateway.server.port
    container = groups["gateway"]["template"]["spec"]["containers"][0]
    assert {"name": "serve-grpc", "containerPort": port} in container["ports"]
    assert container["readinessProbe"]["grpc"]["port"] == port
    assert rayservice["spec"]["serveService"]["spec"]["ports"][0]["port"] == port
    assert config.gateway.server.host == "0.0.0.0"
