"""The output: a folder of Parquet files, each named after the rows that it holds."""

from __future__ import annotations

import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq

from qwire.client import InvalidRequest, ServerError
from qwire.serve.columns.piece import ROW, Table

_RUN = "_run.json"
"""Begins as names do that readers of a folder of Parquet pass over."""
_NAME = re.compile(r"rows-(\d{12})-(\d{12})\.parquet")


@dataclass(frozen=True, slots=True)
class Written:
    """What a folder holds.

    Attributes:
        rows: Rows.
        failed: Those with an error.
        prompt_tokens: Of all rows that succeeded.
        output_tokens: Likewise.
    """

    rows: int
    failed: int
    prompt_tokens: int
    output_tokens: int


class OutputFolder:
    """Belongs to one run, which may be interrupted and gone on with: files that are there are not made again.

    Args:
        path: The folder; made where it is not there.
        run: Tells the run from others.

    Raises:
        InvalidRequest: The folder holds something else, belongs to another run, or another process writes to it.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            holds_more = any(file.name != _RUN for file in self.path.iterdir())
            self._lock = (self.path / _RUN).open("a+")
        except OSError as error:
            raise InvalidRequest.of("output", f"{path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim(run, holds_more=holds_more)
        except BlockingIOError:
            self._lock.close()
            raise InvalidRequest.of("output", f"{path}: another process writes to it") from None
        except InvalidRequest:
            self._lock.close()
            raise
        for torn in self.path.glob(".*.parquet"):
            torn.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.close()

    def missing(self, rows: int) -> list[range]:
        """Return the numbers of rows that no file holds, of so many rows in all, ascending."""
        missing: list[range] = []
        next_row = 0
        for _, held in self._files():
            missing.append(range(next_row, held.start))
            next_row = held.stop
        return [some for some in (*missing, range(next_row, rows)) if some]

    def check(self, rows: int) -> Written:
        """Count what was written.

        Args:
            rows: How many rows the input has.

        Raises:
            ServerError: A row of the input is not there, or is there twice.
        """
        next_row = failed = prompt_tokens = output_tokens = 0
        for path, held in self._files():
            columns = pq.read_table(path, columns=[ROW, "error_code", "prompt_tokens", "output_tokens"])
            if held.start != next_row or columns.column(ROW).to_pylist() != list(held):
                raise ServerError(f"{path.name} does not begin with row {next_row} and hold what its name says")
            next_row = held.stop
            failed += columns.num_rows - columns.column("error_code").null_count
            prompt_tokens += sum(filter(None, columns.column("prompt_tokens").to_pylist()))
            output_tokens += sum(filter(None, columns.column("output_tokens").to_pylist()))
        if next_row != rows:
            raise ServerError(f"{next_row} rows were written of {rows}")
        return Written(next_row, failed, prompt_tokens, output_tokens)

    def _claim(self, run: Mapping[str, Any], *, holds_more: bool) -> None:
        self._lock.seek(0)
        held = self._lock.read()
        if held:
            try:
                before = json.loads(held)
            except ValueError:
                before = {}
            differing = sorted(name for name in {*run, *before} if run.get(name) != before.get(name))
            if differing:
                raise InvalidRequest.of("output", f"{self.path} is of a run with another {' and '.join(differing)}")
            return
        if holds_more:
            (self.path / _RUN).unlink()  # it was made just now
            raise InvalidRequest.of("output", f"{self.path} holds something else than the output of a run")
        json.dump(run, self._lock, indent=2)
        self._lock.flush()
        os.fsync(self._lock.fileno())

    def _files(self) -> Iterator[tuple[Path, range]]:
        for path in sorted(self.path.glob("rows-*.parquet")):
            if match := _NAME.fullmatch(path.name):
                yield path, range(int(match[1]), int(match[2]) + 1)


def write_rows(folder: Path, rows: Table) -> None:
    """Write rows, with their numbers ascending, as one file for each run of neighbours: whole, or not at all."""
    numbers = rows.column(ROW).to_pylist()
    begin = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            continue
        name = f"rows-{numbers[begin]:012}-{numbers[end - 1]:012}.parquet"
        torn = folder / f".{uuid.uuid4().hex}.parquet"
        with torn.open("wb") as file:
            pq.write_table(rows.slice(begin, end - begin), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        torn.replace(folder / name)
        begin = end
