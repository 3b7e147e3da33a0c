"""A file of results that grows with a job, and knows where it stands."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import typer

from qwire.client import BatchJobItem
from qwire.client.jsonl import LineFormat, cursor_of, result_line


class ResultFile:
    """Appends a line for each outcome. What is there already is gone on with; a line that was torn is taken off.

    Args:
        path: The file.
        line_format: How lines are written.

    Raises:
        typer.BadParameter: The file ends with something else, which is not to be lost.
    """

    def __init__(self, path: Path, line_format: LineFormat) -> None:
        self._format = line_format
        self._file = path.open("a+b")
        try:
            self.cursor = self._find_cursor()
        except ValueError:
            self._file.close()
            raise typer.BadParameter(f"{path} holds something else than results of a job") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, item: BatchJobItem) -> None:
        """Append an outcome."""
        self._file.write(result_line(item, self._format).encode() + b"\n")
        self._file.flush()
        self.cursor = item.cursor

    def _find_cursor(self) -> int:
        """Return the cursor of the last whole line; 0 = there is none."""
        self._file.seek(0)
        last, end = b"", 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            last = line
            end += len(line)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
        return cursor_of(last.decode()) if last else 0
