"""BatchService: each item with its own fate."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.v1 import batch_pb2 as pb
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import Stubs, card_of, open_edge, served, until
from tests.contract.failure import Failure, collect, failure_of


def item(name: str, text: str = "abc", tokens: int = 4) -> pb.BatchItem:
    return pb.BatchItem(id=name, spec=GenerationSpec(text=text, stop=StopOptions(max_output_tokens=tokens)))


async def test_results_are_in_the_order_of_the_request(stubs: Stubs):
    items = [item(str(number), tokens=100 - number) for number in range(50)]
    response = await stubs.batch.BatchGenerate(pb.BatchGenerateRequest(items=items))
    assert [result.id for result in response.results] == [one.id for one in items]
    assert [result.generation.finished.usage.output_tokens for result in response.results] == list(range(100, 50, -1))
    assert len({result.generation.started.generation_id for result in response.results}) == 50


async def test_bad_items_fail_alone_with_the_status_of_a_single_call(stubs: Stubs):
    items = [item("a"), item("b", text=""), item("c"), pb.BatchItem(id="d"), item("e")]
    items[4].spec.model = "other"
    response = await stubs.batch.BatchGenerate(pb.BatchGenerateRequest(items=items))
    outcomes = [result.WhichOneof("outcome") for result in response.results]
    assert outcomes == ["generation", "error", "generation", "error", "error"]
    assert Failure.of_status(response.results[1].error).fields == {"items[1].spec.text": "INVALID_FIELD"}
    assert Failure.of_status(response.results[3].error).fields == {"items[3].spec": "INVALID_FIELD"}
    missing = Failure.of_status(response.results[4].error)
    assert (missing.code, missing.reason, missing.metadata["model"]) == ("NOT_FOUND", "MODEL_NOT_FOUND", "other")
    assert len(missing.metadata["generation_id"]) == 32


async def test_stream_tells_results_as_they_land_then_finishes(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.002)
    async with open_edge([await served(processor, engine)]) as edge:
        items = [item("slow", tokens=60), item("bad", text=""), item("quick", tokens=2)]
        request = pb.StreamBatchGenerateRequest(items=items)
        responses = await collect(edge.stubs.batch.StreamBatchGenerate(request))
    assert [response.sequence for response in responses] == [1, 2, 3, 4]
    assert [response.result.id for response in responses[:3]] == ["bad", "quick", "slow"]
    finished = responses[3].finished
    assert (finished.succeeded, finished.failed) == (2, 1)
    assert (finished.usage.prompt_tokens, finished.usage.output_tokens) == (6, 62)


async def test_items_run_at_most_so_many_at_once(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.001, max_running=16, max_waiting=0)
    async with open_edge([await served(processor, engine)]) as edge:
        request = pb.BatchGenerateRequest(items=[item(str(number)) for number in range(100)])
        response = await edge.stubs.batch.BatchGenerate(request)
    assert all(result.HasField("generation") for result in response.results)


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([item(str(number)) for number in range(257)], {"items"}),
        ([item("")], {"items[0].id"}),
        ([item("x" * 65)], {"items[0].id"}),
        ([item("a"), item("b"), item("a")], {"items[2].id"}),
    ],
)
async def test_items_that_cannot_be_told_apart_fail_the_call(items: list[pb.BatchItem], fields: set[str], stubs: Stubs):
    failure = await failure_of(stubs.batch.BatchGenerate(pb.BatchGenerateRequest(items=items)))
    assert (failure.code, failure.reason, set(failure.fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD", fields)
    failure = await failure_of(stubs.batch.StreamBatchGenerate(pb.StreamBatchGenerateRequest(items=items)).read())
    assert set(failure.fields) == fields


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_the_call_ends_every_item(stream: bool, processor: TextProcessor):  # noqa: FBT001 - a case
    engine = FakeEngine(card=card_of(processor), step_s=0.01, max_running=2)
    async with open_edge([await served(processor, engine)]) as edge:
        items = [item(str(number), tokens=200) for number in range(8)]
        call: Any = (
            edge.stubs.batch.StreamBatchGenerate(pb.StreamBatchGenerateRequest(items=items))
            if stream
            else edge.stubs.batch.BatchGenerate(pb.BatchGenerateRequest(items=items))
        )
        reading = asyncio.ensure_future(call.read() if stream else call)
        await until(lambda: len([one for one in engine.requests if one.stop.max_output_tokens == 200]) == 8)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: set(engine.started) == set(engine.ended))
        await until(lambda: edge.server.open_streams == 0)
