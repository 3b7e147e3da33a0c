"""A generation ends in the engine when its caller goes, its id is cancelled, or its time is up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from typing_extensions import override

from qwire.engine.chunk import TokenChunk
from qwire.engine.fake import FakeEngine
from qwire.engine.request import TokenRequest
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2 as pb
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import CALM, CONFIG, Edge, card_of, open_edge, served, until
from tests.contract.failure import collect, failure_of

CANCELLED, NOT_RUNNING = pb.CANCEL_OUTCOME_CANCELLED, pb.CANCEL_OUTCOME_NOT_RUNNING
LONG = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=250))


@pytest.fixture
def engine(processor: TextProcessor) -> FakeEngine:
    """One generation at a time, slow enough to be caught in the act."""
    return FakeEngine(card=card_of(processor), step_s=0.02, max_running=1)


@pytest.fixture
async def edge(processor: TextProcessor, engine: FakeEngine) -> AsyncGenerator[Edge, None]:
    async with open_edge([await served(processor, engine)], config=CALM) as edge:
        await until(lambda: engine.ended != [])
        engine.started.clear()
        engine.ended.clear()
        yield edge


async def begin(
    edge: Edge, *, timeout_s: float | None = None
) -> tuple[grpc.aio.UnaryStreamCall[pb.StreamGenerateRequest, pb.StreamGenerateResponse], str]:
    """Start a stream and return it with its generation's id."""
    call = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=LONG), timeout=timeout_s)
    first = await call.read()
    assert isinstance(first, pb.StreamGenerateResponse)
    return call, first.started.generation_id


async def test_cancelled_stream_ends_in_the_engine(edge: Edge, engine: FakeEngine):
    call, generation_id = await begin(edge)
    await call.read()
    call.cancel()
    await until(lambda: generation_id in engine.ended)
    assert (await engine.stats()).running == 0
    await until(lambda: edge.server.open_streams == 0)


async def test_cancelled_unary_call_ends_in_the_engine(edge: Edge, engine: FakeEngine):
    call = edge.stubs.generate.Generate(pb.GenerateRequest(spec=LONG))
    await until(lambda: engine.started != [])
    call.cancel()
    await until(lambda: engine.ended == engine.started)


async def test_cancelled_in_the_queue(edge: Edge, engine: FakeEngine):
    running, _ = await begin(edge)
    waiting, waiting_id = await begin(edge)
    assert (await engine.stats()).waiting == 1
    waiting.cancel()
    await until(lambda: engine.ended == [waiting_id])
    assert (await engine.stats()).waiting == 0
    running.cancel()


async def test_cancelled_by_id(edge: Edge, engine: FakeEngine):
    call, generation_id = await begin(edge)
    request = pb.CancelGenerationRequest(generation_id=generation_id)
    assert (await edge.stubs.generate.CancelGeneration(request)).outcome == CANCELLED
    failure = await failure_of(collect(call))
    assert (failure.code, failure.reason) == ("CANCELLED", "CANCELLED")
    assert failure.metadata["generation_id"] == generation_id
    assert engine.ended == [generation_id]
    assert (await edge.stubs.generate.CancelGeneration(request)).outcome == NOT_RUNNING


async def test_cancelled_by_id_in_the_queue(edge: Edge, engine: FakeEngine):
    running, _ = await begin(edge)
    waiting, waiting_id = await begin(edge)
    request = pb.CancelGenerationRequest(generation_id=waiting_id)
    assert (await edge.stubs.generate.CancelGeneration(request)).outcome == CANCELLED
    assert (await failure_of(collect(waiting))).reason == "CANCELLED"
    assert engine.ended == [waiting_id]
    running.cancel()


async def test_cancel_of_nothing(edge: Edge):
    request = pb.CancelGenerationRequest(generation_id="no-such-generation")
    assert (await edge.stubs.generate.CancelGeneration(request)).outcome == NOT_RUNNING


async def test_deadline_mid_stream(edge: Edge, engine: FakeEngine):
    call, generation_id = await begin(edge, timeout_s=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: engine.ended == [generation_id])


async def test_deadline_in_the_queue(edge: Edge, engine: FakeEngine):
    running, _ = await begin(edge)
    waiting, waiting_id = await begin(edge, timeout_s=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(waiting)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: engine.ended == [waiting_id])
    running.cancel()


async def test_the_servers_own_deadline_is_told_with_details(processor: TextProcessor, engine: FakeEngine):
    config = replace(CONFIG, default_deadline_s=0.2, max_deadline_s=0.3)
    async with open_edge([await served(processor, engine)], config=config) as edge:
        generate = edge.stubs.generate.Generate
        for timeout in (None, 60.0):
            failure = await failure_of(generate(pb.GenerateRequest(spec=LONG), timeout=timeout))
            assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE")
            assert failure.metadata["generation_id"] in engine.ended


async def test_an_engine_that_ignores_the_deadline_does_not_hold_the_call(processor: TextProcessor):
    class Stuck(FakeEngine):
        @override
        async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
            await asyncio.Event().wait()
            yield TokenChunk(())

    config = replace(CONFIG, default_deadline_s=0.1)
    async with open_edge([await served(processor, Stuck(card=card_of(processor)))], config=config) as edge:
        failure = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=LONG)))
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE")


def said_of_calls(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged, but for exporters that an earlier test left without a collector: they give up later."""
    return [record for record in caplog.records if not record.name.startswith("opentelemetry.")]


async def test_200_random_cancels_leave_nothing_behind(processor: TextProcessor, caplog: pytest.LogCaptureFixture):
    engine = FakeEngine(card=card_of(processor), step_s=0.001, max_running=4, max_waiting=300)
    choose = random.Random(7)  # noqa: S311 - no secret
    async with open_edge([await served(processor, engine)]) as edge:
        before = len(asyncio.all_tasks())

        async def one() -> None:
            call = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=LONG))
            await asyncio.sleep(choose.random() * 0.3)
            call.cancel()

        await asyncio.gather(*(one() for _ in range(200)))
        await until(lambda: edge.server.open_streams == 0)
        await until(lambda: sorted(engine.started) == sorted(engine.ended))
        await until(lambda: len(asyncio.all_tasks()) <= before + 2)
    assert not said_of_calls(caplog), "a caller that goes is no error"


async def test_a_caller_that_stops_reading_and_goes_frees_the_engine(
    processor: TextProcessor, caplog: pytest.LogCaptureFixture
):
    card = replace(card_of(processor), context_tokens=200_000, max_output_tokens=190_000)
    engine = FakeEngine(card=card)
    options = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
    async with open_edge([await served(processor, engine)], channel_options=options) as edge:
        spec = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=190_000))
        call = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec))
        first = await call.read()
        assert isinstance(first, pb.StreamGenerateResponse)
        await asyncio.sleep(0.5)
        call.cancel()
        await until(lambda: first.started.generation_id in engine.ended)
        await until(lambda: edge.server.open_streams == 0)
    assert not said_of_calls(caplog)
