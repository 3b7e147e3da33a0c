"""A server that goes away: new calls are refused, open ones finish, nothing is cut without a word."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import grpc.aio
import pytest

from qwire.client import RetryOptions
from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2 as pb
from qwire.v1 import health_pb2, model_pb2
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import CONFIG, card_of, open_edge, served, until
from tests.contract.failure import collect, failure_of

SPEC = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=80))


async def test_open_streams_finish_while_new_calls_are_refused(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    async with open_edge([await served(processor, engine)]) as edge:
        stubs = edge.stubs
        calls = [stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC)) for _ in range(4)]
        await asyncio.gather(*(call.read() for call in calls))
        assert edge.server.open_streams == 4
        draining = asyncio.create_task(edge.server.drain(30))
        await edge.wait_state(health_pb2.SERVING_STATE_DRAINING)
        failure = await failure_of(stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "DRAINING")
        assert failure.retry_after_s is not None
        assert failure.pushback_ms is not None
        assert (await stubs.models.ListModels(model_pb2.ListModelsRequest())).models
        streams = await asyncio.gather(*(collect(call) for call in calls))
        assert all(stream[-1].HasField("finished") for stream in streams)
        await draining
        assert edge.server.open_streams == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.models.ListModels(model_pb2.ListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_draining_server_can_still_cancel(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.02)
    async with open_edge([await served(processor, engine)]) as edge:
        call = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC))
        first = await call.read()
        assert isinstance(first, pb.StreamGenerateResponse)
        draining = asyncio.create_task(edge.server.drain(30))
        await edge.wait_state(health_pb2.SERVING_STATE_DRAINING)
        request = pb.CancelGenerationRequest(generation_id=first.started.generation_id)
        assert (await edge.stubs.generate.CancelGeneration(request)).outcome == pb.CANCEL_OUTCOME_CANCELLED
        assert (await failure_of(collect(call))).reason == "CANCELLED"
        await draining


async def test_calls_beyond_the_grace_end_with_a_typed_status(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.05)
    async with open_edge([await served(processor, engine)]) as edge:
        stream = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC))
        await stream.read()
        unary = asyncio.ensure_future(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        await until(lambda: edge.server.open_streams == 2)
        await edge.server.drain(0.05)
        for call in (collect(stream), unary):
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == ("UNAVAILABLE", "DRAINING")
            assert failure.metadata["generation_id"] in engine.ended


async def test_a_second_drain_waits_for_the_first(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    async with open_edge([await served(processor, engine)]) as edge:
        call = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC))
        await call.read()
        first = asyncio.create_task(edge.server.drain(30))
        second = asyncio.create_task(edge.server.drain(0))
        assert (await collect(call))[-1].HasField("finished")
        await second
        assert first.done()
        await edge.server.drain(0)


async def test_new_calls_of_old_connections_go_to_whoever_shares_the_port(processor: TextProcessor):
    leaving, staying = (FakeEngine(card=card_of(processor), step_s=0.01) for _ in range(2))
    shared = replace(CONFIG, reuse_port=True)
    retries = (("grpc.service_config", RetryOptions().service_config()),)
    async with open_edge([await served(processor, leaving)], config=shared, channel_options=retries) as old:
        call = old.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC))
        await call.read()
        async with open_edge([await served(processor, staying)], config=replace(shared, port=old.port)):
            short = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=2))

            async def ask_often() -> None:
                for _ in range(30):
                    await old.stubs.generate.Generate(pb.GenerateRequest(spec=short), wait_for_ready=True)

            # Many at once: gRPC drops, with CANCELLED, what reaches the old one before its GOAWAY reaches the client.
            asking = [asyncio.create_task(ask_often()) for _ in range(8)]
            draining = asyncio.create_task(old.server.drain(30))
            await asyncio.gather(*asking)
            assert (await collect(call))[-1].HasField("finished")
            await draining
            assert staying.ended


async def test_during_the_notice_health_turns_and_calls_are_still_taken(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.001)
    async with open_edge([await served(processor, engine)], config=replace(CONFIG, drain_notice_s=60.0)) as edge:
        draining = asyncio.create_task(edge.server.drain(60))
        await edge.wait_state(health_pb2.SERVING_STATE_DRAINING)
        answer = await edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC))
        assert answer.generation.finished.usage.output_tokens == 80
        draining.cancel()
