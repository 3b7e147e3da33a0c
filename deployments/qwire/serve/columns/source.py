"""The input: a file, or all files of a folder, as rows that are numbered from 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from qwire.client import InvalidRequest
from qwire.serve.columns.json_lines import JsonLineRows
from qwire.serve.columns.parquet_file import ParquetRows
from qwire.serve.columns.piece import Piece, Schema, Table, wanted_rows


class Rows(Protocol):
    """The rows of one file.

    Attributes:
        schema: Their columns.
        digest: Tells the file from others.
    """

    schema: Schema
    digest: str

    def pieces(self, first: int) -> Iterator[Piece]:
        """Yield the pieces, the first row having this number."""
        ...

    @staticmethod
    def read(piece: Piece) -> Iterator[Table]:
        """Yield the rows of a piece in their order."""
        ...


_KINDS: Mapping[str, type[ParquetRows | JsonLineRows]] = {".parquet": ParquetRows, ".jsonl": JsonLineRows}


class Source:
    """All rows of the input, in the order of the files' names.

    Args:
        path: A file that ends in `.parquet` or `.jsonl`, or a folder of such files of one kind.

    Attributes:
        schema: Their columns: those of Parquet, or one that holds the line.
        rows: How many.
        digest: Tells the input from others: for lines their content; for Parquet the files' names and sizes, and the
            ends of them, which hold the footers.

    Raises:
        InvalidRequest: There are no such files, they have different columns, or one cannot be read.
    """

    def __init__(self, path: Path) -> None:
        files = [_rows_of(file) for file in _files(path)]
        self.schema = files[0][1].schema
        self._pieces: list[Piece] = []
        self.rows = 0
        for file, rows in files:
            if rows.schema != self.schema:
                raise InvalidRequest.of(str(file), f"has other columns than {files[0][0].name}")
            for piece in rows.pieces(self.rows):
                self._pieces.append(piece)
                self.rows = piece.rows.stop
        self.digest = sha256("".join(rows.digest for _, rows in files).encode()).hexdigest()

    def pieces(self, wanted: Sequence[range]) -> list[tuple[Piece, list[range]]]:
        """Return the pieces that hold wanted rows, each with the numbers of those.

        Args:
            wanted: Numbers, ascending, without overlaps.
        """
        found: list[tuple[Piece, list[range]]] = []
        for piece in self._pieces:
            own = [range(max(some.start, piece.rows.start), min(some.stop, piece.rows.stop)) for some in wanted]
            if some := [one for one in own if one]:
                found.append((piece, some))
        return found


def read(piece: Piece, wanted: Sequence[range]) -> Iterator[Table]:
    """Yield the wanted rows of a piece, with their numbers."""
    first = piece.rows.start
    for table in _KINDS[piece.path.suffix].read(piece):
        yield from wanted_rows(first, table, wanted)
        first += table.num_rows


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in _KINDS and file.name[0] not in "._")
    if not files or len({file.suffix for file in files}) > 1:
        raise InvalidRequest.of(str(path), "must hold .parquet files or .jsonl files, and not both")
    return files


def _rows_of(path: Path) -> tuple[Path, Rows]:
    kind = _KINDS.get(path.suffix)
    if kind is None:
        raise InvalidRequest.of(str(path), f"must end in {' or '.join(_KINDS)}")
    return path, kind(path.absolute())
