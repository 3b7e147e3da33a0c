"""How a long preparation tells what it is doing, and how long each phase took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Phase(Enum):
    """One phase of turning a name into a checkpoint. The values are words for a person."""

    WAIT = "wait"
    """Another process prepares the same model."""
    FETCH = "fetch"
    """Bytes come from a source."""
    CONVERT = "convert"
    """The published file becomes a checkpoint folder."""
    VERIFY = "verify"
    """Digests of everything that will be loaded."""


@dataclass(frozen=True, slots=True)
class PhaseTiming:
    """How long one phase took.

    Attributes:
        phase: Which one; a phase that was tried with several sources has one timing for each.
        detail: What it worked on, for a person.
        elapsed_s: Seconds, >= 0.
    """

    phase: Phase
    detail: str
    elapsed_s: float


class Progress(Protocol):
    """Told from the preparing thread; must return quickly and must not raise."""

    def started(self, phase: Phase, detail: str, total_bytes: int | None) -> None:
        """A phase begins.

        Args:
            phase: Which one.
            detail: What it works on, for a person.
            total_bytes: How many bytes it will go through; None = not known.
        """
        ...

    def advanced(self, phase: Phase, done_bytes: int) -> None:
        """The phase has gone through that many bytes; may fall back when a source fails and another one starts."""
        ...

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        """The phase ended, well or not."""
        ...


class SilentProgress:
    """Tells nobody."""

    def started(self, phase: Phase, detail: str, total_bytes: int | None) -> None:
        """Ignored."""

    def advanced(self, phase: Phase, done_bytes: int) -> None:
        """Ignored."""

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        """Ignored."""


class PhaseClock:
    """Runs phases: reports each to a `Progress` and keeps its timing."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._timings: list[PhaseTiming] = []

    @property
    def timings(self) -> tuple[PhaseTiming, ...]:
        """The phases that ended, in order."""
        return tuple(self._timings)

    @contextmanager
    def phase(self, phase: Phase, detail: str, total_bytes: int | None = None) -> Generator[Callable[[int], None]]:
        """Time a block; the block reports its bytes by calling what it is given."""
        self._progress.started(phase, detail, total_bytes)
        began_s = time.monotonic()
        try:
            yield lambda done_bytes: self._progress.advanced(phase, done_bytes)
        finally:
            elapsed_s = time.monotonic() - began_s
            self._timings.append(PhaseTiming(phase, detail, elapsed_s))
            self._progress.finished(phase, elapsed_s)
