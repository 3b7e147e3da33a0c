"""How far a job is: a bar on standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qwire.client import BatchJob, BatchJobItem, Upload


class JobProgress:
    """Shows items, tokens per second, what failed, and the time that is left; nothing where nobody looks."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tokens_per_s]:.0f} tokens/s, {task.fields[failed]} failed"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("upload", total=None, tokens_per_s=0.0, failed=0)
        self._began = time.monotonic()
        self._tokens = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def uploaded(self, upload: Upload) -> None:
        """Show what was appended."""
        self._bar.update(self._task, completed=upload.accepted)

    def landed(self, item: BatchJobItem) -> None:
        """Count the tokens of an outcome."""
        if item.generation is not None:
            self._tokens += item.generation.usage.output_tokens

    def seen(self, job: BatchJob) -> None:
        """Show the job."""
        self._bar.update(
            self._task,
            description=job.state.value,
            total=job.total,
            completed=job.landed,
            failed=job.failed + job.expired,
            tokens_per_s=self._tokens / (time.monotonic() - self._began),
        )

    def rows(self, total: int, landed: int, failed: int, output_tokens: int) -> None:
        """Show rows that are generated without a job."""
        self._bar.update(
            self._task,
            description="rows",
            total=total,
            completed=landed,
            failed=failed,
            tokens_per_s=output_tokens / (time.monotonic() - self._began),
        )
