from __future__ import annotations

import json

import pytest

from .conftest import Run


def row_of(output: str, model: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if f" {model} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_every_quantization_is_shown_without_a_server(run: Run) -> None:
    result = run("models", "catalogue")
    assert result.exit_code == 0
    heading = next(line for line in result.stdout.splitlines() if "Model" in line)
    shown = ["Model", "Weights", "Context", "Tasks", "License", "none", "int8", "nf4", "fp4"]
    assert [cell.strip() for cell in heading.strip("┃").split("┃")] == shown
    dense = row_of(result.stdout, "Qwen/Qwen2.5-Coder-14B-Instruct")
    assert dense[:5] == [
        *("Qwen/Qwen2.5-Coder-14B-Instruct", "14.8 B", "8,192 of 32,768", "coding, tools", "Apache-2.0"),
    ]
    sizes = [float(cell.removesuffix(" GiB")) for cell in dense[5:]]
    assert sizes == sorted(sizes, reverse=True)
    assert 24 < sizes[0] < 32
    sparse = row_of(result.stdout, "Qwen/Qwen3-30B-A3B")
    assert sparse[5].endswith("GiB")
    assert sparse[6:] == ["-", "-", "-"]
    assert result.stdout.splitlines()[-1] == "nf4 and fp4 failed the quality gate on some weights."


def test_a_task_a_device_and_a_context_choose(run: Run) -> None:
    result = run("models", "catalogue", "--task", "math", "--device", "cpu", "--context", "32k")
    heading = next(line for line in result.stdout.splitlines() if "Model" in line)
    assert "q8" in heading
    assert "int8" not in heading
    assert "Qwen2.5-Math" not in result.stdout  # it has a context of 4,096
    assert "Qwen2.5-Coder" not in result.stdout
    assert row_of(result.stdout, "Qwen/Qwen3-8B")[2] == "32,768 of 40,960"
    assert "failed" not in result.stdout


def test_as_json_everything_is_told(run: Run) -> None:
    options = ("--task", "coding", "--context", "16k", "--concurrency", "4", "--json")
    found = {one["model"]: one for one in json.loads(run("models", "catalogue", *options).stdout)}
    one = found["Qwen/Qwen2.5-Coder-7B-Instruct"]
    assert (one["tasks"], one["context_tokens"]) == (["coding", "tools"], 16_384)
    assert list(one["needs"]) == ["none", "int8", "nf4", "fp4"]
    for need in one["needs"].values():
        assert need["needed_bytes"] == need["weights_bytes"] + need["runtime_bytes"] + max(
            need["kv_bytes"] + need["step_bytes"], need["loading_bytes"]
        )
    assert list(found["Qwen/Qwen3-Coder-30B-A3B-Instruct"]["needs"]) == ["none"]


def test_where_no_model_takes_so_much_it_is_said(run: Run) -> None:
    result = run("models", "catalogue", "--context", "1024k")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: no model for any task takes so much context\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "flying"), "task is 'flying'"),
        (("--context", "long"), "'long' is no number of tokens"),
        (("--device", "tpu"), "device is 'tpu'"),
        (("--concurrency", "0"), "concurrency is 0"),
    ],
)
def test_wrong_usage_is_told(run: Run, arguments: tuple[str, ...], told: str) -> None:
    result = run("models", "catalogue", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_help_lists_it(run: Run) -> None:
    assert "catalogue" in run("models", "--help").stdout
    assert "general, coding, math, reasoning, tools" in run("models", "catalogue", "--help").stdout
