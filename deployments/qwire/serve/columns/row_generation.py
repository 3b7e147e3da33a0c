"""From rows to rows with what became of them. What generates is behind a seam; Ray is not needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from qwire.batch.item import Lease, LeasedItem
from qwire.client import InvalidRequest
from qwire.serve.columns.piece import ROW, Table
from qwire.serve.columns.row_reader import RowReader
from qwire.serve.columns.row_result import failure_of, result_of, with_results
from qwire.serve.columns.row_runner import RowRunner

_LOW_PRIORITY = -1
_ATTEMPTS = 5  # of a row that fails by no fault of its own, as of a job's item


class RowGeneration:
    """Generates the rows of tables, as items of a batch job are generated.

    Args:
        reader: Makes generations of rows.
        runner: Has them generated.
        run_id: With a row's number, the seed of one that brings none.
        tenant: Whose rows they are.
        landed: Is told what became of each row.
    """

    def __init__(
        self,
        reader: RowReader,
        runner: RowRunner,
        run_id: str,
        tenant: str,
        landed: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._reader = reader
        self._runner = runner
        self._run_id = run_id
        self._tenant = tenant
        self._landed = landed

    async def run(self, rows: Table) -> Table:
        """Return all rows of a table, in their order, with what became of them."""
        numbers = rows.column(ROW).to_pylist()
        asked = rows.select(list(self._reader.columns)).to_pylist()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._row(*row)) for row in zip(numbers, asked, strict=True)]
        return with_results(rows, [task.result() for task in tasks])

    async def _row(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            spec = self._reader.spec(row, number)
        except InvalidRequest as error:
            result = failure_of(error)
        except Exception as error:  # noqa: BLE001 - a row holds whatever it holds, and its failure is its own
            result = failure_of(InvalidRequest.of(f"row {number}", f"cannot be read: {type(error).__name__}"))
        else:
            result = result_of(await self._runner.run(self._item(number, spec.SerializeToString(deterministic=True))))
        self._landed(result)
        return result

    def _item(self, number: int, spec: bytes) -> LeasedItem:
        return LeasedItem(
            lease=Lease(self._run_id, number, token=1),
            id=str(number),
            tenant=self._tenant,
            spec=spec,
            partial=b"",
            failures=0,
            max_attempts=_ATTEMPTS,
            priority=_LOW_PRIORITY,
            expires_ns=None,
        )
