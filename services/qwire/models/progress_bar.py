"""Draws a `Progress` on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as RichBars,
)

from qwire.models.progress import Phase


class ProgressBar:
    """A `qwire.models.progress.Progress` as a bar per phase; a finished phase becomes a line with its time.

    Args:
        console: Where to draw. On something that is no terminal only the lines are written.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._details: dict[Phase, tuple[TaskID, str]] = {}
        self._bars = RichBars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, phase: Phase, detail: str, total_bytes: int | None) -> None:
        """Draw a bar for the phase."""
        task = self._bars.add_task(f"{phase.value} {detail}", total=total_bytes)
        self._details[phase] = task, detail

    def advanced(self, phase: Phase, done_bytes: int) -> None:
        """Move its bar."""
        self._bars.update(self._details[phase][0], completed=done_bytes)

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        """Replace the bar by a line."""
        task, detail = self._details.pop(phase)
        self._bars.remove_task(task)
        self._console.print(f"{phase.value} {detail}: {elapsed_s:.1f} s", highlight=False, markup=False)
