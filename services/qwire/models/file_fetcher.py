"""Gets a published file: from the cache, else from the sources in their order, and proves that it is the right one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from qwire.models.catalogue import CatalogueEntry, PublishedFile
from qwire.models.digest import sha256_of
from qwire.models.errors import ChecksumMismatch, DownloadFailed
from qwire.models.progress import Phase, PhaseClock
from qwire.models.source import Source, SourceUnavailable


class FileFetcher:
    """Keeps published files under `cache_dir`, one folder per digest.

    Not safe to call for the same file from two places at once: the caller holds a lock.

    Args:
        cache_dir: Where files are kept; made when needed.
        sources: Tried in this order.
    """

    def __init__(self, cache_dir: Path, sources: Sequence[Source]) -> None:
        self._cache_dir = cache_dir
        self._sources = tuple(sources)

    def fetch(self, entry: CatalogueEntry, clock: PhaseClock) -> Path:
        """The verified file on disk.

        Raises:
            ChecksumMismatch: A source delivered other bytes than the published ones. They were deleted.
            DownloadFailed: No source delivered.
        """
        folder = self._cache_dir / entry.file.sha256[:16]
        path = folder / entry.file.name
        if path.is_file():
            with clock.phase(Phase.VERIFY, path.name, entry.file.size_bytes) as report:
                if _mismatch(path, entry.file, report) is None:
                    return path
            path.unlink()  # damaged since: fetched anew
        unfinished = folder / "unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        failures: list[str] = []
        for source in self._sources:
            target = unfinished / f"{type(source).__name__}.bin"
            try:
                with clock.phase(Phase.FETCH, source.name, entry.file.size_bytes) as report:
                    source.fetch(entry, target, report)
            except SourceUnavailable as error:
                failures.append(f"{source.name}: {error}")
                continue
            with clock.phase(Phase.VERIFY, entry.file.name, entry.file.size_bytes) as report:
                _accept(target, entry.file, source.name, report)
            target.replace(path)
            shutil.rmtree(unfinished)
            return path
        raise DownloadFailed(
            f"{entry.file.name} could not be fetched ({'; '.join(failures)}). Check the network and start again: what "
            f"arrived is kept. Or put the file there yourself: {path}"
        )


def _accept(target: Path, file: PublishedFile, source_name: str, report: Callable[[int], None]) -> None:
    if (problem := _mismatch(target, file, report)) is not None:
        target.unlink()
        raise ChecksumMismatch(
            f"{file.name} from the {source_name} is not the published file: {problem}. It was deleted."
        )


def _mismatch(path: Path, file: PublishedFile, report: Callable[[int], None]) -> str | None:
    """What is wrong with a file; None = nothing. The size first: it costs nothing."""
    if (size_bytes := path.stat().st_size) != file.size_bytes:
        return f"{size_bytes} bytes, expected {file.size_bytes}"
    if (sha256 := sha256_of(path, report)) != file.sha256:
        return f"sha256 {sha256}, expected {file.sha256}"
    return None
