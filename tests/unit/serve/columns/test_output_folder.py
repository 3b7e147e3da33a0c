"""Writing columns: whole files named after their rows, gone on with, counted at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwire.client import InvalidRequest, ServerError
from qwire.serve.columns.output_folder import OutputFolder, Written, write_rows
from qwire.serve.columns.row_result import RESULT_SCHEMA, failure_of, with_results

RUN = {"input": "digest", "rows": 10}
GOOD: dict[str, Any] = {"output_text": "x", "finish_reason": "length", "prompt_tokens": 2, "output_tokens": 3}
BAD = failure_of(InvalidRequest.of("row 5", "is bad"))


def write(folder: Path, *numbers: int) -> None:
    rows = pa.table({"row": pa.array(numbers, pa.int64()), "label": [f"l{number}" for number in numbers]})
    write_rows(folder, with_results(rows, [BAD if number == 5 else GOOD for number in numbers]))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_is_written_is_not_missing(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out", RUN) as folder:
        assert folder.missing(10) == [range(10)]
        write(folder.path, 0, 1, 2, 4, 5)
        assert folder.missing(10) == [range(3, 4), range(6, 10)]
    with OutputFolder(tmp_path / "out", RUN) as folder:
        assert folder.missing(10) == [range(3, 4), range(6, 10)]
        write(folder.path, 3, 6, 7, 8, 9)
        assert folder.missing(10) == []
        assert folder.check(10) == Written(10, 1, 18, 27)
        assert names(folder.path) == [
            "_run.json",
            "rows-000000000000-000000000002.parquet",
            "rows-000000000003-000000000003.parquet",
            "rows-000000000004-000000000005.parquet",
            "rows-000000000006-000000000009.parquet",
        ]
    table = pq.read_table(tmp_path / "out")
    assert table.schema.names == ["row", "label", *RESULT_SCHEMA.names]
    assert table.column("row").to_pylist() == list(range(10))
    assert table.column("error_message").to_pylist() == [*[None] * 5, "row 5: is bad", *[None] * 4]
    assert table.column("output_text").null_count == 1


def test_rows_that_are_missing_or_twice_do_not_pass(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, RUN) as folder:
        write(folder.path, 0, 1, 2)
        with pytest.raises(ServerError, match="3 rows were written of 10"):
            folder.check(10)
        write(folder.path, 2, 3)
        with pytest.raises(ServerError, match="does not begin with row 3"):
            folder.check(4)


def test_a_file_that_does_not_hold_what_its_name_says_does_not_pass(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, RUN) as folder:
        write(folder.path, 0, 1)
        (folder.path / "rows-000000000000-000000000001.parquet").rename(
            folder.path / "rows-000000000000-000000000002.parquet"
        )
        with pytest.raises(ServerError, match="hold what its name says"):
            folder.check(3)


def test_a_torn_file_is_taken_off(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, RUN):
        (tmp_path / ".torn.parquet").touch()
    with OutputFolder(tmp_path, RUN) as folder:
        assert names(tmp_path) == ["_run.json"]
        assert folder.missing(10) == [range(10)]


def test_another_run_is_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, RUN):
        pass
    with pytest.raises(InvalidRequest, match="of a run with another rows"):
        OutputFolder(tmp_path, {**RUN, "rows": 11})


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InvalidRequest, match="holds something else"):
        OutputFolder(tmp_path, RUN)
    assert names(tmp_path) == ["mine.txt"]
    with pytest.raises(InvalidRequest, match="output: "):
        OutputFolder(tmp_path / "mine.txt", RUN)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, RUN), pytest.raises(InvalidRequest, match="another process writes to it"):
        OutputFolder(tmp_path, RUN)
