"""Rows of a file of JSON lines; a piece is some megabytes of it. A row is its line: lines need not be alike."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from qwire.client import InvalidRequest
from qwire.serve.columns.piece import Piece, Schema, Table

LINE = "line"
"""The column that holds the line."""
_SCHEMA = pa.schema([(LINE, pa.large_string())])
_PIECE_BYTES = 16 * 2**20
_BATCH_BYTES = 2**20


class JsonLineRows:
    """See `qwire.serve.columns.source.Rows`. Reads the file once to count; empty lines are no rows."""

    schema: Schema = _SCHEMA

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: list[tuple[int, int, int]] = []
        digest = sha256(path.name.encode())
        place = size = rows = 0
        try:
            with path.open("rb") as lines:
                for line in lines:
                    digest.update(line)
                    size += len(line)
                    rows += bool(line.strip())
                    if size >= _PIECE_BYTES:
                        self._places.append((place, size, rows))
                        place, size, rows = place + size, 0, 0
        except OSError as error:
            raise InvalidRequest.of(str(path), f"cannot be read: {error.strerror}") from None
        if rows:
            self._places.append((place, size, rows))
        self.digest = digest.hexdigest()

    def pieces(self, first: int) -> Iterator[Piece]:
        """Yield the pieces, the first row having this number."""
        for place, size_bytes, rows in self._places:
            yield Piece(self._path, place, range(first, first + rows), size_bytes)
            first += rows

    @staticmethod
    def read(piece: Piece) -> Iterator[Table]:
        """Yield the rows of a piece in their order. What is no UTF-8 in a line is told with backslashes."""
        held: list[str] = []
        size = 0
        with piece.path.open("rb") as lines:
            lines.seek(piece.place)
            left = len(piece.rows)
            while left:
                line = lines.readline()
                if not line:
                    raise OSError(f"{piece.path} became shorter while it was read")
                if not line.strip():
                    continue
                left -= 1
                held.append(line.decode(errors="backslashreplace").rstrip("\r\n"))
                size += len(line)
                if size >= _BATCH_BYTES or not left:
                    yield pa.table([held], schema=_SCHEMA)
                    held, size = [], 0
