"""Where the bytes of a published file may come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from qwire.models.catalogue import CatalogueEntry


class SourceUnavailable(Exception):
    """This source cannot deliver the file now; the next one is tried. The text says why."""


class Source(Protocol):
    """Delivers a published file. What it delivers is not trusted: the caller compares size and digest."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        """Write the entry's file to a path.

        Args:
            entry: The catalogue entry whose file is wanted.
            target: Where it goes. It may hold the beginning that an interrupted fetch of this same source left.
            report: Called with the bytes that are there so far.

        Raises:
            SourceUnavailable: It cannot be delivered from here now.
            ChecksumMismatch: The source offers other bytes than the published ones.
        """
        ...
