"""The Kubernetes manifests, validated without a cluster."""

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = INFRA / "kubernetes"
VERSION = "1.37.0"
SCHEMA = yaml.safe_load((Path(__file__).parent / "rayservice.schema.yaml").read_text())
KUSTOMIZATIONS = [KUBERNETES / "overlays" / "gpu", KUBERNETES / "overlays" / "cpu", KUBERNETES / "models"]


def _check(document: dict[str, Any]) -> None:
    """Raise where the API server would refuse a document, or drop a key of it."""
    if document["kind"] != "RayService":
        kubernetes_validate.validate(document, VERSION, strict=True)
        return
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    cluster = document["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(pod, VERSION, strict=True)
    service = {"apiVersion": "v1", "kind": "Service", **document["spec"]["serveService"]}
    kubernetes_validate.validate(service, VERSION, strict=True)


def _manifests() -> list[Path]:
    files = [*KUBERNETES.glob("base/*.yaml"), *KUBERNETES.glob("models/*.yaml"), *INFRA.glob("otel/*.yaml")]
    return sorted(path for path in files if path.name not in {"kustomization.yaml", "collector.yaml"})


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize("path", _manifests(), ids=lambda path: str(path.relative_to(INFRA)))
def test_manifest_is_valid(path: Path) -> None:
    for document in _documents(path):
        _check(document)


@pytest.mark.parametrize("folder", ["kubernetes/base", "kubernetes/models", "otel"])
def test_every_manifest_is_in_its_kustomization(folder: str) -> None:
    kustomization = yaml.safe_load((INFRA / folder / "kustomization.yaml").read_text())
    generated = [name for entry in kustomization.get("configMapGenerator", []) for name in entry["files"]]

    present = {path.name for path in (INFRA / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert present == {*kustomization["resources"], *generated}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayClusterConfg", {}),
        ("spec.rayClusterConfig.workerGroupSpecs.0.maxReplica", 3),
        ("spec.rayClusterConfig.workerGroupSpecs.0.minReplicas", "two"),
        ("spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterConfig.workerGroupSpecs.1.template.spec.containers.0.readinesProbe", {}),
        ("spec.serveService.spec.ports.0.targetPorts", 1),
    ],
)
def test_a_mistake_is_found(rayservice: dict[str, Any], path: str, value: object) -> None:
    document = copy.deepcopy(rayservice)
    *parents, last = path.split(".")
    inner: Any = document
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value

    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _check(document)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, for its built-in kustomize")
@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_kustomization_renders_valid_manifests(folder: Path) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    documents = [document for document in yaml.safe_load_all(rendered) if document]

    for document in documents:
        _check(document)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "qwire"
    for service in (document for document in documents if document["kind"] == "RayService"):
        assert service["spec"]["serveConfigV2"] == (folder / "serve.yaml").read_text()
        gpus = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]
        assert ("nvidia.com/gpu" in gpus["resources"]["limits"]) == (folder.name == "gpu")


def _pods(rayservice: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = rayservice["spec"]["rayClusterConfig"]
    pods = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **pods}


def test_only_gateways_get_client_traffic(rayservice: dict[str, Any]) -> None:
    (port,) = rayservice["spec"]["serveService"]["spec"]["ports"]

    listening = {
        name
        for name, pod in _pods(rayservice).items()
        if port["targetPort"] in [entry["name"] for entry in pod["spec"]["containers"][0]["ports"]]
    }
    assert listening == {"gateway"}


def test_no_pod_runs_as_root_or_writes_to_the_models(rayservice: dict[str, Any]) -> None:
    for pod in _pods(rayservice).values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts.get("models", {"readOnly": True})["readOnly"] is True


def test_policies_deny_by_default_and_name_pods_that_exist(rayservice: dict[str, Any]) -> None:
    policies = _documents(KUBERNETES / "base" / "networkpolicy.yaml")
    (budget,) = _documents(KUBERNETES / "base" / "poddisruptionbudget.yaml")
    labels = [set(pod["metadata"]["labels"].items()) for pod in _pods(rayservice).values()]

    denied = policies[0]["spec"]
    assert denied["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in denied
    assert "egress" not in denied
    assert all(set(denied["podSelector"]["matchLabels"].items()) <= of_pod for of_pod in labels)
    for selector in [policy["spec"]["podSelector"] for policy in policies] + [budget["spec"]["selector"]]:
        assert any(set(selector["matchLabels"].items()) <= of_pod for of_pod in labels), selector


def test_collector_pipelines_name_components_that_exist() -> None:
    (config,) = _documents(INFRA / "otel" / "collector.yaml")
    (service,) = _documents(INFRA / "otel" / "service.yaml")

    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind])
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    assert service["spec"]["ports"][0]["port"] == int(
        config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rsplit(":", 1)[1]
    )
