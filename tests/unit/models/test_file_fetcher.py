from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qwire.models.catalogue import CatalogueEntry
from qwire.models.errors import ChecksumMismatch, DownloadFailed
from qwire.models.file_fetcher import FileFetcher
from qwire.models.progress import Phase, PhaseClock, SilentProgress
from qwire.models.source import SourceUnavailable


class Memory:
    name = "memory"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        assert entry.file.name
        target.write_bytes(self._content)
        report(len(self._content))


class Broken:
    name = "broken source"

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        report(0)
        raise SourceUnavailable(f"no {entry.file.name} for {target.name}")


@pytest.fixture
def content(tiny_gguf: Path) -> bytes:
    return tiny_gguf.read_bytes()


@pytest.fixture
def clock() -> PhaseClock:
    return PhaseClock(SilentProgress())


def test_sources_are_tried_in_order(entry: CatalogueEntry, content: bytes, clock: PhaseClock, tmp_path: Path) -> None:
    path = FileFetcher(tmp_path, [Broken(), Memory(content)]).fetch(entry, clock)

    assert path.read_bytes() == content
    assert [(timing.phase, timing.detail) for timing in clock.timings] == [
        (Phase.FETCH, "broken source"),
        (Phase.FETCH, "memory"),
        (Phase.VERIFY, "tiny-q8_0.gguf"),
    ]


def test_a_cached_file_needs_no_source(
    entry: CatalogueEntry, content: bytes, clock: PhaseClock, tmp_path: Path
) -> None:
    first = FileFetcher(tmp_path, [Memory(content)]).fetch(entry, clock)
    assert FileFetcher(tmp_path, [Broken()]).fetch(entry, clock) == first


@pytest.mark.parametrize("flipped", [True, False])
def test_a_damaged_cached_file_is_fetched_again(
    entry: CatalogueEntry, content: bytes, clock: PhaseClock, tmp_path: Path, *, flipped: bool
) -> None:
    fetcher = FileFetcher(tmp_path, [Memory(content)])
    path = fetcher.fetch(entry, clock)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if flipped else content[:-1])

    assert fetcher.fetch(entry, clock).read_bytes() == content


def test_other_bytes_are_deleted_and_refused(
    entry: CatalogueEntry, content: bytes, clock: PhaseClock, tmp_path: Path
) -> None:
    other = bytes([content[0] ^ 1]) + content[1:]
    # The good source behind it is not asked: wrong bytes are a reason to stop and look.
    with pytest.raises(ChecksumMismatch, match="from the memory is not the published file: sha256"):
        FileFetcher(tmp_path, [Memory(other), Memory(content)]).fetch(entry, clock)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_short_file_is_deleted_and_refused(
    entry: CatalogueEntry, content: bytes, clock: PhaseClock, tmp_path: Path
) -> None:
    with pytest.raises(ChecksumMismatch, match=f"{len(content) - 1} bytes, expected {len(content)}"):
        FileFetcher(tmp_path, [Memory(content[:-1])]).fetch(entry, clock)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_when_no_source_delivers_all_reasons_are_said(entry: CatalogueEntry, clock: PhaseClock, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"broken source: no .*; broken source: no .*start again") as raised:
        FileFetcher(tmp_path, [Broken(), Broken()]).fetch(entry, clock)
    # The text names a place where the file can be put by hand, and it is found there.
    path = Path(str(raised.value).rsplit(" ", 1)[-1])
    assert path.is_relative_to(tmp_path)
