"""Watches how much arrives in a folder, for downloads that somebody else's code makes."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

_INTERVAL_S = 0.2


@contextmanager
def watched(folder: Path, report: Callable[[int], None]) -> Generator[None]:
    """Report the size of all files below a folder, five times a second, while a block runs."""
    done = Event()

    def watch() -> None:
        while not done.wait(_INTERVAL_S):
            report(_size_bytes(folder))

    thread = Thread(target=watch, name="download-growth", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _size_bytes(folder: Path) -> int:
    total = 0
    # os.walk, because it passes over folders that vanish meanwhile; Path.rglob raises.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
