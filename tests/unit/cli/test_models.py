"""`qwire models`."""

from __future__ import annotations

import json

import pytest

from qwire.client.testing import FakeServer

from .conftest import Run


def test_models_as_a_table_and_as_json(run: Run) -> None:
    with FakeServer(models=["qwen-b", "qwen-a"]) as server:
        table = run("models", "--server", server.target)
        listed = json.loads(run("models", "--json", "--server", server.target).stdout)
    assert table.exit_code == 0
    for told in ("qwen-a", "qwen-b", "FakeForCausalLM", "494 M", "int8, float32 from Q4_K_M", "4,096", "chat"):
        assert told in table.stdout
    assert [model["id"] for model in listed] == ["qwen-a", "qwen-b"]
    assert listed[0]["quantization"]["method"] == "int8"


def test_adapters_are_shown_with_their_models(run: Run) -> None:
    with FakeServer(models=["qwen"], adapters=["tax-v2", "legal"]) as server:
        table = run("models", "--server", server.target).stdout
        (listed,) = json.loads(run("models", "--json", "--server", server.target).stdout)
    assert all(told in table for told in ("Adapters", "legal", "tax-v2"))
    assert [adapter["id"] for adapter in listed["adapters"]] == ["legal", "tax-v2"]
    with FakeServer() as server:
        assert "Adapters" not in run("models", "--server", server.target).stdout
        assert json.loads(run("models", "--json", "--server", server.target).stdout)[0]["adapters"] == []
        assert server.calls_of("ListAdapters") == ()


def test_no_model_name_is_cut_on_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with FakeServer(models=["qwen2.5-coder-0.5b-instruct"]) as server:
        table = run("models", "--server", server.target).stdout
    assert "…" not in table
