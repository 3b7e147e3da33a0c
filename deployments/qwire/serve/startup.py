"""What a person sees while a server starts: each phase, its progress, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from qwire.models.progress import Phase, SilentProgress

ServeUntilStopped = Callable[[Callable[[], bool]], None]
"""Called once everything is started, with a question: has every model generated a token? Returns when serving ends."""


class StartError(Exception):
    """The application could not start; the text says why."""


class Startup:
    """Prints the phases of a start, each with its time.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Time one phase; it is printed when it ends well."""
        began = time.monotonic()
        with self.console.status(f"{name} …"):
            yield
        self.done(name, time.monotonic() - began)

    def done(self, name: str, elapsed_s: float) -> None:
        """Print a phase that ended."""
        self.console.print(f"  [green]✓[/green] {name:<44} {elapsed_s:6.1f} s")


class ModelBars(SilentProgress):
    """Draws a bar for each phase of preparing a model in which bytes move. See `qwire.models.progress.Progress`.

    Args:
        startup: Prints what ended.
        model_id: The model that is prepared.
    """

    def __init__(self, startup: Startup, model_id: str) -> None:
        self._startup = startup
        self._model_id = model_id
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=startup.console,
            transient=True,
        )
        self._task: TaskID | None = None

    @contextmanager
    def shown(self) -> Generator[ModelBars]:
        """Draw while the block runs."""
        with self._bars:
            yield self

    def started(self, phase: Phase, detail: str, total_bytes: int | None) -> None:
        """Draw a new bar."""
        self._task = self._bars.add_task(f"{phase.value} {detail}", total=total_bytes)

    def advanced(self, phase: Phase, done_bytes: int) -> None:
        """Move the bar."""
        del phase
        if self._task is not None:
            self._bars.update(self._task, completed=done_bytes)

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        """Replace the bar by a line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._startup.done(f"{phase.value} {self._model_id}", elapsed_s)
