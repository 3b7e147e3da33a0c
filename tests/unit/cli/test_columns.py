"""`qwire batch run --engine ray-data`, up to where the server's part begins."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwire.cli import columns

from .conftest import Run


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--engine", "ray-data", "--within", "1"), "--within says nothing to ray-data"),
        (("--engine", "ray-data", "--label", "a=b"), "--label says nothing to ray-data"),
        (("--engine", "ray-data", "--format", "openai"), "--format says nothing to ray-data"),
        (("--engine", "ray-data", "--tls"), "--tls says nothing to ray-data"),
        (("--workers", "2"), "--workers says nothing to jobs"),
        (("--prompt-column", "q"), "--prompt-column says nothing to jobs"),
        ((), "need --engine ray-data"),
        (("--engine", "ray-data", "--server", "somewhere"), "--server must be host:port"),
        (("--engine", "ray-data", "--rows-per-file", "0"), "--rows-per-file"),
        (("--engine", "ray-data", "--prompt-column", "q"), "prompt_column: must name the column"),
    ],
)
def test_what_would_not_be_heeded_is_refused(run: Run, prompts: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("batch", "run", str(prompts), "-o", str(prompts.with_name("out")), *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", "").split())
    assert not prompts.with_name("out").exists()


def test_a_column_that_would_be_twice_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "output_text": ["b"], "row": [1]}), path)
    result = run("batch", "run", str(path), "-o", str(tmp_path / "out"), "--engine", "ray-data")
    assert result.exit_code == 2
    assert "output_text, row would be twice" in " ".join(result.stderr.replace("│", "").split())


def test_without_the_servers_part_it_says_what_to_install(
    run: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> object | None:
        return None if name == "ray" else object()

    monkeypatch.setattr(columns, "find_spec", find_spec)
    result = run("batch", "run", str(prompts), "-o", str(prompts.with_name("out")), "--engine", "ray-data")
    assert result.exit_code == 1
    assert result.stderr == "error: ray not installed; --engine ray-data needs: pip install 'qwire[data]'\n"
