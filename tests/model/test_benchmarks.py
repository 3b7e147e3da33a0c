"""The engine's benchmarks run: each once on a tiny model in tiny sizes, to see that they do, not how fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwire.models.quality import Measurement
from tests.bench import guided, prefix, quality, sampling, speculation, step
from tests.bench.quality_page import CPU, caption, recorded
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(main: Callable[[], Any], *arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])
        if (coroutine := main()) is not None:
            asyncio.run(coroutine)

    return call


def test_prefix(run: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(prefix.main, "--model", folder, "--prefix-tokens", 100, "--pairs", 1)
    assert "100 shared and 16 own prompt tokens" in capsys.readouterr().out


def test_sampling(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run(sampling.main, "--rows", 2, "--pairs", 1, "--threads", 1)
    assert "2 rows, mixed: ours" in capsys.readouterr().out


def test_guided(
    run: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided, "EOS", 258)  # that of the tiny model
    run(guided.main, folder, "--rows", 2, "--steps", 3)
    assert "masks: median" in capsys.readouterr().out


def test_speculation(
    run: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculation, "SCHEMA", {"type": "boolean"})  # a random model fills strings to their end
    run(speculation.main, "--model", folder, "--pairs", 1, "--tokens", 8)
    assert "JSON Schema, no speculation" in capsys.readouterr().out


def test_quality(run: Callable[..., None], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, measured = tmp_path / "quality.md", list[Measurement]()
    page.write_text(quality.DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(quality, "DOCUMENT", page)
    monkeypatch.setattr(quality, "DEFAULT_MODEL_ID", folder.name)
    monkeypatch.setattr(quality, "record", measured.extend)
    run(quality.main, "--model", folder, "--device", "cpu", "--modes", "q8", "--positions", 32)
    (q8,) = measured
    assert (q8.quantization, q8.device, q8.positions) == ("q8", "cpu", 8 * 32)
    written = recorded(page.read_text(encoding="utf-8"), caption(folder.name, CPU), "q8")
    assert written is not None
    assert written[0] == pytest.approx(q8.kl, abs=1e-5)


@pytest.mark.parametrize("quantization", ["none", "q8"])
def test_step(
    run: Callable[..., None],
    folder: Path,
    quantization: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bytes_per_s(_: Path) -> float:
        return 1e9

    # The machine's own bounds take a gigabyte.
    monkeypatch.setattr(step, "bytes_per_s", bytes_per_s)
    monkeypatch.setattr(step, "operations_per_s", lambda: 1e9)
    around = step.Clock.around

    def restored(clock: step.Clock, owner: Any, method: str, name: str) -> None:
        monkeypatch.setattr(owner, method, getattr(owner, method))  # taken back at the end
        around(clock, owner, method, name)

    monkeypatch.setattr(step.Clock, "around", restored)
    run(
        *(step.main, "--model", folder, "--quantization", quantization),
        *("--rows", 2, "--context", 16, "--prefill", 32, "--rounds", 1),
    )
    assert "| prefill, 32 tokens |" in capsys.readouterr().out
