"""What became of rows, as columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from google.rpc.status_pb2 import Status

from qwire.batch.item import Outcome
from qwire.batch.job import ItemState
from qwire.client import Generation, QwireError
from qwire.client.status import error_from_status
from qwire.serve.columns.piece import ROW, Table
from qwire.v1 import types_pb2

RESULT_SCHEMA = pa.schema(
    [
        ("output_text", pa.large_string()),
        ("reasoning", pa.large_string()),
        ("tool_calls", pa.large_string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("cached_prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("error_code", pa.string()),
        ("error_reason", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""The columns that follow those of the input. The last three are null where a row succeeded, the others where it
failed; `reasoning` and `tool_calls` (JSON, as in lines of results) also where there are none."""
RESULT_COLUMNS = (ROW, *RESULT_SCHEMA.names)
"""The columns that an input cannot have."""


def result_of(outcome: Outcome) -> dict[str, Any]:
    """Return the values of a row with an outcome."""
    if outcome.state is not ItemState.SUCCEEDED:
        return failure_of(error_from_status(Status.FromString(outcome.content)))
    generation = Generation.from_proto(types_pb2.Generation.FromString(outcome.content))
    calls = [{"id": one.id, "name": one.name, "arguments": one.arguments} for one in generation.tool_calls]
    return {
        "output_text": generation.text,
        "reasoning": generation.reasoning or None,
        "tool_calls": json.dumps(calls, ensure_ascii=False) if calls else None,
        "finish_reason": generation.finished.reason.value,
        "prompt_tokens": generation.usage.prompt_tokens,
        "cached_prompt_tokens": generation.usage.cached_prompt_tokens,
        "output_tokens": generation.usage.output_tokens,
    }


def failure_of(error: QwireError) -> dict[str, Any]:
    """Return the values of a row that failed."""
    return {
        "error_code": error.code.name if error.code else "UNKNOWN",
        "error_reason": error.reason,
        "error_message": error.message,
    }


def with_results(rows: Table, results: Sequence[dict[str, Any]]) -> Table:
    """Return rows with what became of them."""
    told = pa.Table.from_pylist(list(results), RESULT_SCHEMA)
    for name in RESULT_SCHEMA.names:
        rows = rows.append_column(RESULT_SCHEMA.field(name), told.column(name))
    return rows
