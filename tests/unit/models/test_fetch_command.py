from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from qwire.models.catalogue import CATALOGUE, DEFAULT_MODEL_ID, CatalogueEntry, find
from qwire.models.convert import convert
from qwire.models.fetch import main
from qwire.models.progress import Phase, PhaseClock
from qwire.models.progress_bar import ProgressBar


def test_a_ready_model_is_reported(
    entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(entry, tiny_gguf, tmp_path / "model", lambda _: None)

    assert main([str(tmp_path / "model"), "--cache", str(tmp_path / "cache")]) == 0

    output = capsys.readouterr().out
    assert "verify model: " in output
    assert f"tiny at {entry.hub_revision} is ready after " in output
    assert f"folder   {tmp_path / 'model'}" in output


def test_a_failure_is_one_sentence_on_the_error_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing"), "--cache", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"{tmp_path / 'nothing'} is not a folder.\n"
    assert "Traceback" not in captured.out


def test_a_bar_follows_its_phase() -> None:
    output = io.StringIO()
    with ProgressBar(Console(file=output, force_terminal=True, width=120)) as bar:
        clock = PhaseClock(bar)
        with clock.phase(Phase.FETCH, "somewhere", 2_000_000) as report:
            report(1_000_000)
            report(2_000_000)
        with pytest.raises(RuntimeError), clock.phase(Phase.CONVERT, "something"):
            raise RuntimeError
    assert "2.0/2.0 MB" in output.getvalue() or "fetch somewhere: " in output.getvalue()
    assert "convert something: " in output.getvalue()
    assert [timing.phase for timing in clock.timings] == [Phase.FETCH, Phase.CONVERT]


def test_the_default_model_is_in_the_catalogue() -> None:
    entry = find(DEFAULT_MODEL_ID)
    assert entry is not None
    assert sum(part.size_bytes for part in entry.mirror) == entry.file.size_bytes


def test_every_entry_is_pinned() -> None:
    assert len({entry.id for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert len(entry.hub_revision) == 40
        assert len(entry.file.sha256) == 64
        assert all(len(part.sha256) == 64 for part in entry.mirror)
