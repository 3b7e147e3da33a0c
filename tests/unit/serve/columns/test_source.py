"""Reading columns: rows are numbered, whatever files and pieces they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwire.client import InvalidRequest
from qwire.serve.columns import json_lines
from qwire.serve.columns.source import Source, read


def read_all(source: Source, wanted: list[range]) -> list[tuple[Any, Any]]:
    tables = [table for piece, some in source.pieces(wanted) for table in read(piece, some)]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def write_parquet(path: Path, first: int, last: int, group: int = 3) -> None:
    pq.write_table(pa.table({"prompt": [f"p{number}" for number in range(first, last)]}), path, row_group_size=group)


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", 10, 14)
    write_parquet(tmp_path / "a.parquet", 0, 10)
    (tmp_path / "_SUCCESS").touch()
    source = Source(tmp_path)
    assert source.rows == 14
    assert read_all(source, [range(14)]) == [(number, f"p{number}") for number in range(14)]


@pytest.mark.parametrize("wanted", [[range(2, 5)], [range(1), range(4, 8), range(11, 12)], [range(9, 9)]])
def test_only_what_is_wanted_is_read(tmp_path: Path, wanted: list[range]) -> None:
    write_parquet(tmp_path / "in.parquet", 0, 12)
    numbers = [number for some in wanted for number in some]
    assert read_all(Source(tmp_path / "in.parquet"), wanted) == [(number, f"p{number}") for number in numbers]


def test_lines_need_not_be_alike_nor_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_PIECE_BYTES", 8)
    lines = ['"one"', "", '{"prompt": "two"}', "  ", "not JSON", '"\xff"', '"last"']
    (tmp_path / "in.jsonl").write_bytes("\r\n".join(lines).encode("latin-1"))
    source = Source(tmp_path / "in.jsonl")
    held = ['"one"', '{"prompt": "two"}', "not JSON", '"\\xff"', '"last"']
    assert source.rows == 5
    assert len(source.pieces([range(5)])) > 1
    assert read_all(source, [range(5)]) == list(enumerate(held))
    assert read_all(source, [range(1, 2), range(4, 5)]) == [(1, held[1]), (4, held[4])]


def test_an_empty_input_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    assert Source(tmp_path / "in.jsonl").pieces([]) == []


def test_the_digest_tells_inputs_apart(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write_parquet(path, 0, 12)
    digest = Source(path).digest
    write_parquet(path, 0, 12)
    assert Source(path).digest == digest
    write_parquet(path, 1, 13)
    assert Source(path).digest != digest


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("no Parquet")
    (tmp_path / "in.csv").write_text("prompt\n")
    (tmp_path / "mixed").mkdir()
    write_parquet(tmp_path / "mixed" / "a.parquet", 0, 1)
    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "mixed" / "b.parquet")
    (tmp_path / "empty").mkdir()
    for name, text in (
        ("in.parquet", "cannot be read as Parquet"),
        ("in.csv", r"must end in \.parquet or \.jsonl"),
        ("mixed", r"b\.parquet: has other columns than a\.parquet"),
        ("empty", "must hold"),
    ):
        with pytest.raises(InvalidRequest, match=text):
            Source(tmp_path / name)
