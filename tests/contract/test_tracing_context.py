"""What a call carries: its request id, its trace, what its servicer tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.contextvars import bound_contextvars
from typing_extensions import override

from qwire.client.tracing import aio_client_interceptors
from qwire.rpc.tracing import annotate_call, current_trace_fields
from qwire.telemetry.setup import Telemetry
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from tests.contract.traced import FickleService, Watch, fickle_server, generate, watched
from tests.support.otlp_receiver import attributes, eventually


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    with watched(monkeypatch) as watch:
        yield watch


@pytest.fixture
async def target(watch: Watch) -> AsyncGenerator[str]:
    async with fickle_server(watch.telemetry, FickleService()) as target:
        yield target


@pytest.fixture
async def stub(target: str) -> AsyncGenerator[Any]:
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors(target)) as channel:
        yield GenerateServiceStub(channel)


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "!~"])
async def test_a_callers_request_id_is_taken_up(watch: Watch, stub: Any, given: str):
    call = stub.Generate(generate("ok"), metadata=(("x-request-id", given),))
    await call
    assert (await call.trailing_metadata())["x-request-id"] == given
    (server,) = await watch.spans(1)
    assert attributes(server.attributes)["qwire.request.id"] == given
    for event in ("handling", "rpc_finished"):
        (line,) = watch.lines.of(event)
        assert line["request_id"] == given
        assert (line["trace_id"], line["span_id"]) == (server.trace_id.hex(), server.span_id.hex())


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129])
async def test_an_unusable_request_id_is_replaced(stub: Any, given: str | None):
    metadata = () if given is None else (("x-request-id", given),)
    calls = [stub.Generate(generate("ok"), metadata=metadata) for _ in range(2)]
    await asyncio.gather(*calls)
    ids = {(await call.trailing_metadata())["x-request-id"] for call in calls}
    assert len(ids) == 2
    assert given not in ids


async def test_an_aborted_call_carries_its_request_id(stub: Any):
    call = stub.Generate(generate("NOT_FOUND"), metadata=(("x-request-id", "mine"),))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.trailing_metadata()["x-request-id"] == "mine"


async def test_concurrent_calls_keep_their_ids_apart(watch: Watch, stub: Any):
    ids = [f"r-{number}" for number in range(30)]
    await asyncio.gather(*(stub.Generate(generate("ok"), metadata=(("x-request-id", name),)) for name in ids))
    for event in ("handling", "rpc_finished"):
        await eventually(lambda event=event: len(watch.lines.of(event)) == 30)
        assert sorted(line["request_id"] for line in watch.lines.of(event)) == sorted(ids)
    spans = {attributes(span.attributes)["qwire.request.id"]: span for span in await watch.spans(30)}
    for line in watch.lines.of("handling"):
        assert line["span_id"] == spans[line["request_id"]].span_id.hex()


async def test_nothing_of_a_call_is_left_behind(watch: Watch, stub: Any):
    await stub.Generate(generate("ok"))
    await watch.finished(1)
    assert current_trace_fields() == (None, None)


async def test_a_call_does_not_inherit_what_was_bound_when_the_server_started(watch: Watch):
    with bound_contextvars(phase="startup"):
        async with (
            fickle_server(watch.telemetry, FickleService()) as target,
            grpc.aio.insecure_channel(target) as channel,
        ):
            stub: Any = GenerateServiceStub(channel)
            await stub.Generate(generate("ok"))
    (line,) = await watch.finished(1)
    assert "phase" not in line


async def test_what_servicers_tell_is_on_the_span_and_on_later_lines(watch: Watch):
    class Telling(FickleService):
        @override
        async def behave(self, model: str, context: Any) -> None:
            annotate_call(operation="chat", model=model, generation_id="g-1", prompt_tokens=3)
            annotate_call(output_tokens=5, finish_reason="length")

    async with fickle_server(watch.telemetry, Telling()) as target, grpc.aio.insecure_channel(target) as channel:
        stub: Any = GenerateServiceStub(channel)
        await stub.Generate(generate("m"))
    (server,), (line,) = await watch.spans(1), await watch.finished(1)
    assert (
        attributes(server.attributes).items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "qwire",
            "gen_ai.request.model": "m",
            "gen_ai.response.id": "g-1",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 5,
        }.items()
    )
    assert (line["model"], line["generation_id"]) == ("m", "g-1")


@pytest.mark.parametrize("traceparent", ["", "garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
async def test_a_broken_trace_context_begins_a_new_trace(watch: Watch, target: str, traceparent: str):
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = GenerateServiceStub(channel)
        await stub.Generate(generate("ok"), metadata=(("traceparent", traceparent),))
    (server,) = await watch.spans(1)
    assert not server.parent_span_id


async def test_a_caller_that_does_not_record_is_followed(watch: Watch, target: str):
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = GenerateServiceStub(channel)
        unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        await stub.Generate(generate("ok"), metadata=(("traceparent", unsampled),))
    (line,) = await watch.finished(1)
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    await watch.spans(0)


async def test_without_telemetry_a_server_answers_and_passes_the_callers_trace_on():
    seen: list[Any] = []

    class Seeing(FickleService):
        @override
        async def behave(self, model: str, context: Any) -> None:
            seen.append(current_trace_fields())

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with fickle_server(Telemetry.disabled(), Seeing()) as target, grpc.aio.insecure_channel(target) as channel:
        stub: Any = GenerateServiceStub(channel)
        await stub.Generate(generate("ok"), metadata=(("traceparent", parent),))
    assert seen == [(parent, None)]
