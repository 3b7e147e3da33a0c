"""The configuration refuses what it does not know, and names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from qwire.serve.config import AppConfig
from qwire.serve.launch import load_config


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"model": []}, "model"),
        ({"models": []}, "models"),
        ({"models": [{"source": "x", "engine": {"quantisation": "nf4"}}]}, "models.0.engine.quantisation"),
        ({"models": [{"source": "x", "engine": {"quantization": "q3"}}]}, "models.0.engine"),
        ({"models": [{"source": "x", "replicas": {"min_replicas": 3, "max_replicas": 2}}]}, "min_replicas (3)"),
        ({"models": [{"source": "x", "draft_source": "y"}]}, "draft_source"),
        ({"models": [{"source": "x", "engine": {"speculation": "draft-model"}}]}, "draft_source"),
        ({"models": [{"source": "x", "engine": {"draft_tokens": 0}}]}, "draft_tokens"),
        ({"models": [{"source": "a/x"}, {"source": "b/x"}]}, "every id must occur once"),
        ({"models": [{"source": "x", "id": "no spaces"}]}, "models.0.id"),
        ({"gateway": {"server": {"port": 70000}}}, "port"),
        ({"gateway": {"server": {"hots": "::"}}}, "gateway.server.hots"),
        ({"gateway": {"server": {"health": {"probe_s": 1}}}}, "gateway.server.health.probe_s"),
        ({"gateway": {"server": {"tls": {"cert": "x"}}}}, "gateway.server.tls"),
        ({"telemetry": {"otlp_endpoint": "localhost"}}, "otlp_endpoint"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, object], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AppConfig.model_validate(document)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("source", "served_id"),
    [
        ("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-0.5b-instruct"),
        ("Qwen/Qwen3-0.6B@main", "Qwen3-0.6B"),
        ("/models/mine/", "mine"),
    ],
)
def test_the_served_id_follows_the_source(source: str, served_id: str) -> None:
    config = AppConfig.model_validate({"models": [{"source": source}]})
    assert config.models[0].served_id == served_id


def test_files_of_the_repository_load() -> None:
    folder = Path(__file__).parents[3] / "infra" / "serve"
    files = sorted(folder.glob("*.yaml"))
    assert files
    for file in files:
        assert load_config(file).models


def test_a_file_with_two_applications_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("applications: [{args: {}}, {args: {}}]")
    with pytest.raises(ValueError, match="expected one application, found 2"):
        load_config(file)
