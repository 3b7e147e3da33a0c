"""Rows through the same generation as a job's items, on an engine that echoes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from qwire.client import GenerationOptions
from qwire.engine.errors import EngineUnavailable
from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_workshop import BatchWorkshop
from qwire.rpc.config import HealthConfig
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.serve.columns.row_generation import RowGeneration
from qwire.serve.columns.row_reader import RowReader
from qwire.serve.columns.row_runner import RowRunner
from qwire.text.processor import TextProcessor
from tests.contract.edge import card_of, served, until
from tests.support.byte_tokenizer import write_byte_tokenizer

ROWS = 12


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> TextProcessor:
    return TextProcessor.from_folder(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


async def generate(
    processor: TextProcessor, engine: FakeEngine, columns: Mapping[str, list[Any]]
) -> list[dict[str, Any]]:
    registry = ModelRegistry(models=[await served(processor, engine)])
    rows = pa.table(dict(columns))
    reader = RowReader.of(rows.schema, None, GenerationOptions(max_output_tokens=4))
    rows = rows.add_column(0, "row", pa.array(range(rows.num_rows)))
    runner = RowRunner(BatchWorkshop(registry, HealthMonitor(registry, HealthConfig())), 8)
    landed: list[Mapping[str, Any]] = []
    told = await RowGeneration(reader, runner, "run", "", landed.append).run(rows)
    assert len(landed) == rows.num_rows
    return told.to_pylist()


async def test_every_row_comes_back_in_its_place(processor: TextProcessor) -> None:
    engine = FakeEngine(card=card_of(processor), max_running=3, max_waiting=1)  # most are refused at first
    bad = {2: {"max_output_tokens": 0}, 5: {"model": "other"}, 7: {"nonsense": 1}}
    rows = await generate(
        processor,
        engine,
        {
            "label": [f"l{number}" for number in range(ROWS)],
            "prompt": [f"p{number}" for number in range(ROWS)],
            "options": [json.dumps(bad.get(number, {})) for number in range(ROWS)],
        },
    )
    assert [(row["row"], row["label"], row["prompt"]) for row in rows] == [
        (number, f"l{number}", f"p{number}") for number in range(ROWS)
    ]
    assert {row["row"]: row["error_code"] for row in rows if row["error_code"]} == {
        2: "INVALID_ARGUMENT",
        5: "NOT_FOUND",
        7: "INVALID_ARGUMENT",
    }
    assert "max_output_tokens" in rows[2]["error_message"]
    assert rows[7]["error_message"] == "row 7: unknown option 'nonsense'"
    for row in rows:
        succeeded = row["error_code"] is None
        assert (row["output_tokens"], row["finish_reason"]) == ((4, "length") if succeeded else (None, None))
        assert (row["output_text"] is not None) == succeeded


async def test_whatever_a_row_holds_the_others_are_generated(processor: TextProcessor) -> None:
    lines = ["[" * 100_000, '{"prompt": "a", "logit_bias": {"x": 1}}', '{"prompt": "\\ud800"}', "null", '"good"']
    rows = await generate(processor, FakeEngine(card=card_of(processor)), {"line": lines})
    assert [row["error_code"] for row in rows] == [*["INVALID_ARGUMENT"] * 4, None]
    assert rows[4]["output_tokens"] == 4


async def test_a_lost_replica_costs_no_row(processor: TextProcessor) -> None:
    engine = FakeEngine(card=card_of(processor), fail_after=2, failure=EngineUnavailable(0.01))
    generating = asyncio.create_task(generate(processor, engine, {"prompt": ["hello"]}))
    await until(lambda: bool(engine.ended))
    engine.fail_after = None
    (row,) = await generating
    assert (row["output_tokens"], row["error_code"]) == (4, None)
    assert len(engine.requests) > 1
    assert len(engine.requests[-1].output_token_ids) == 2  # not from the beginning


async def test_an_engine_that_is_full_is_asked_again(processor: TextProcessor) -> None:
    engine = FakeEngine(card=card_of(processor), max_running=1, max_waiting=0)
    rows = await generate(processor, engine, {"prompt": ["a", "b", "c"]})
    assert [row["error_code"] for row in rows] == [None] * 3
