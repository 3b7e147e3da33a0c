"""A caller that stops reading costs bounded memory, no place in the engine, and nobody else's time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2 as pb
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import CALM, Edge, card_of, open_edge, served, until
from tests.contract.failure import Failure, collect
from tests.support.log_lines import collected_log_lines

NARROW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
"""A client whose network takes little that it has not read."""


def spec(tokens: int) -> GenerationSpec:
    return GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=tokens))


def endless(processor: TextProcessor, **options: Any) -> FakeEngine:
    card = replace(card_of(processor), context_tokens=400_000, max_output_tokens=390_000)
    return FakeEngine(card=card, **options)


@asynccontextmanager
async def stalled(edge: Edge, tokens: int) -> AsyncGenerator[tuple[Any, str]]:
    """Start a stream on a connection of its own, read its first message, and no more."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}", options=NARROW) as channel:
        call = GenerateServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(spec=spec(tokens)))
        first = await call.read()
        assert isinstance(first, pb.StreamGenerateResponse)
        yield call, first.started.generation_id


async def failure_at_the_end_of(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(call)
    return Failure.of_call(caught.value)


async def test_a_stalled_reader_is_ended_with_a_typed_error(processor: TextProcessor):
    engine = endless(processor)
    config = replace(CALM, write_stall_timeout_s=0.3, max_stream_buffer_bytes=64 * 1024)
    async with open_edge([await served(processor, engine)], config=config) as edge:
        async with stalled(edge, 390_000) as (call, generation_id):
            await until(lambda: generation_id in engine.ended)
            await until(lambda: edge.server.open_streams == 0)
            assert edge.server.buffered_bytes == 0
            failure = await failure_at_the_end_of(call)
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "SLOW_READER")
        assert failure.metadata["generation_id"] == generation_id
        assert failure.retry_after_s is None


async def test_a_stalled_reader_that_never_reads_again_leaves_no_task(processor: TextProcessor):
    with collected_log_lines() as lines:
        await stall_for_good(processor)
        ended = [line["code"] for line in lines.of("rpc_finished") if line["method"].endswith("StreamGenerate")]
        assert ended == ["RESOURCE_EXHAUSTED"]
        assert not [line for line in lines.all() if line["level"] == "error"]


async def stall_for_good(processor: TextProcessor) -> None:
    config = replace(CALM, write_stall_timeout_s=0.3, max_stream_buffer_bytes=64 * 1024)
    async with open_edge([await served(processor, endless(processor))], config=config) as edge:
        await until(lambda: edge.server.health.status().models != [])
        before = len(asyncio.all_tasks())
        async with stalled(edge, 390_000):
            await until(lambda: edge.server.open_streams == 0)
        await until(lambda: len(asyncio.all_tasks()) <= before + 1)


async def test_a_generation_ends_and_frees_its_place_while_its_caller_does_not_read(processor: TextProcessor):
    engine = endless(processor, max_running=1)
    async with open_edge([await served(processor, engine)], config=CALM) as edge:
        async with stalled(edge, 8000) as (call, generation_id):
            await until(lambda: generation_id in engine.ended)
            assert edge.server.buffered_bytes > 0
            other = await edge.stubs.generate.Generate(pb.GenerateRequest(spec=spec(5)))
            assert len(other.generation.tokens) == 5
            rest = await collect(call)
        assert sum(len(response.delta.tokens) for response in rest) == 8000
        assert [response.sequence for response in rest] == list(range(2, len(rest) + 2))
        assert rest[-1].finished.usage.output_tokens == 8000
        assert edge.server.buffered_bytes == 0


async def test_fifty_stalled_readers_hold_bounded_memory_and_let_a_healthy_one_pass(processor: TextProcessor):
    engine = endless(processor, max_running=64)
    config = replace(CALM, write_stall_timeout_s=3.0, max_stream_buffer_bytes=16 * 1024, max_buffer_bytes=256 * 1024)
    async with open_edge([await served(processor, engine)], config=config) as edge, AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(stalled(edge, 390_000)) for _ in range(50)]
        most = edge.server.buffered_bytes
        call = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec(500)))
        tokens = 0
        async for response in call:
            tokens += len(response.delta.tokens)
            most = max(most, edge.server.buffered_bytes)
        assert tokens == 500
        # One chunk of a token each may be held beyond the bound.
        assert 0 < most <= 256 * 1024 + 51 * (128 + 36)
        await until(lambda: edge.server.open_streams == 0)
        assert edge.server.buffered_bytes == 0
        assert sorted(engine.started) == sorted(engine.ended)
        for stalled_call, _ in calls:
            assert (await failure_at_the_end_of(stalled_call)).reason == "SLOW_READER"
