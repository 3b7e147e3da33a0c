"""A piece of the input that is read at once: neighbouring rows of one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

Table = Any
"""A `pyarrow.Table`: the library tells no types."""
Schema = Any
"""A `pyarrow.Schema`, likewise."""

ROW = "row"
"""The column of a row's number among all rows of the input, from 0."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring rows of one file.

    Attributes:
        path: The file.
        place: Where they begin in it: a row group of Parquet, a byte of lines.
        rows: Their numbers among all rows of the input.
        size_bytes: How much of the file they are.
    """

    path: Path
    place: int
    rows: range
    size_bytes: int


def wanted_rows(first: int, table: Table, wanted: Iterable[range]) -> Iterator[Table]:
    """Yield the wanted ones of neighbouring rows, with their numbers.

    Args:
        first: The number of the first row.
        table: The rows.
        wanted: Numbers.
    """
    for some in wanted:
        begin, end = max(some.start, first), min(some.stop, first + table.num_rows)
        if begin < end:
            numbers = pa.array(range(begin, end), pa.int64())
            yield table.slice(begin - first, end - begin).add_column(0, ROW, numbers)
