"""Rows of a Parquet file; a piece is a row group."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qwire.client import InvalidRequest
from qwire.serve.columns.piece import Piece, Schema, Table

_BATCH_ROWS = 4096
_FOOTER_BYTES = 64 * 1024


class ParquetRows:
    """See `qwire.serve.columns.source.Rows`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with pq.ParquetFile(path) as file:
                self.schema: Schema = file.schema_arrow.remove_metadata()
                groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
                self._groups = [(group.num_rows, group.total_byte_size) for group in groups]
        except (OSError, pa.ArrowException) as error:
            raise InvalidRequest.of(str(path), f"cannot be read as Parquet: {error}") from None
        with path.open("rb") as raw:  # the footer has the sizes, places and bounds of all columns
            size = raw.seek(0, 2)
            raw.seek(max(0, size - _FOOTER_BYTES))
            self.digest = sha256(f"{path.name} {size} ".encode() + raw.read()).hexdigest()

    def pieces(self, first: int) -> Iterator[Piece]:
        """Yield the pieces, the first row having this number."""
        for number, (rows, size_bytes) in enumerate(self._groups):
            yield Piece(self._path, number, range(first, first + rows), size_bytes)
            first += rows

    @staticmethod
    def read(piece: Piece) -> Iterator[Table]:
        """Yield the rows of a piece in their order."""
        with pq.ParquetFile(piece.path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[piece.place]):
                yield pa.Table.from_batches([batch]).replace_schema_metadata()
