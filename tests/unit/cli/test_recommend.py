from __future__ import annotations

import json

import pytest

from .conftest import Run


def test_models_that_fit_are_shown_without_a_server(run: Run) -> None:
    result = run("models", "recommend", "--task", "coding", "--memory", "24GiB")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    first = next(line for line in lines if "Qwen/" in line)
    for told in ("Qwen/Qwen2.5-Coder-14B-Instruct", "int8", "GiB", "8,192 of 32,768", "Apache-2.0", "made for coding"):
        assert told in first
    assert "source: Qwen/Qwen2.5-Coder-14B-Instruct" in lines[-1]
    assert "kv_capacity_tokens: 8192" in lines[-1]


def test_as_json_everything_is_told(run: Run) -> None:
    options = ("--memory", "48GiB", "--device", "cpu", "--context", "16k", "--concurrency", "4", "--json")
    found = json.loads(run("models", "recommend", "--task", "coding", *options).stdout)
    assert found[0]["quantization"] == "q8"
    assert found[0]["context_tokens"] == 16_384
    need = found[0]["need"]
    assert found[0]["needed_bytes"] == need["weights_bytes"] + need["runtime_bytes"] + max(
        need["kv_bytes"] + need["step_bytes"], need["loading_bytes"]
    )
    assert all(one["needed_bytes"] <= 48 * 2**30 for one in found)


def test_where_nothing_fits_it_is_said(run: Run) -> None:
    result = run("models", "recommend", "--task", "coding", "--memory", "1GiB")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: no model for coding fits into 1GiB on a gpu with so much context\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "flying", "--memory", "24GiB"), "task is 'flying'"),
        (("--task", "coding", "--memory", "plenty"), "'plenty' is no size"),
        (("--task", "coding", "--memory", "24GiB", "--context", "long"), "'long' is no number of tokens"),
        (("--task", "coding", "--memory", "24GiB", "--device", "tpu"), "device is 'tpu'"),
        (("--task", "coding", "--memory", "24GiB", "--concurrency", "0"), "concurrency is 0"),
        (("--memory", "24GiB"), "--task"),
        (("--task", "coding"), "--memory"),
    ],
)
def test_wrong_usage_is_told(run: Run, arguments: tuple[str, ...], told: str) -> None:
    result = run("models", "recommend", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_help_lists_the_tasks(run: Run) -> None:
    assert "recommend" in run("models", "--help").stdout
    assert "general, coding, math, reasoning, tools" in run("models", "recommend", "--help").stdout
