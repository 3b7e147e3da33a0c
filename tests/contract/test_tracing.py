"""One trace, one log line and one measurement for every call, however it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from qwire.client.tracing import aio_client_interceptors
from qwire.rpc.tracing import TracingInterceptor
from qwire.v1 import generate_pb2 as pb
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from tests.contract.traced import (
    CANARY,
    GENERATE,
    STREAM,
    FickleService,
    Watch,
    fickle_server,
    generate,
    stream,
    watched,
)
from tests.support.otlp_receiver import attributes, eventually

CLIENT = Span.SPAN_KIND_CLIENT


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    with watched(monkeypatch) as watch:
        yield watch


@pytest.fixture
def service() -> FickleService:
    return FickleService()


@pytest.fixture
async def target(watch: Watch, service: FickleService) -> AsyncGenerator[str]:
    async with fickle_server(watch.telemetry, service) as target:
        yield target


@pytest.fixture
async def channel(target: str) -> AsyncGenerator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors(target)) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> GenerateServiceStub:
    return GenerateServiceStub(channel)


async def outcome(stub: Any, model: str, *, streamed: bool, timeout_s: float | None = None) -> str:
    """Make a call to its end and return its status."""
    call = stub.StreamGenerate if streamed else stub.Generate
    request = stream(model) if streamed else generate(model)
    call = call(request, timeout=timeout_s)
    try:
        if streamed:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_client_and_server_span_are_one_trace(watch: Watch, target: str, stub: Any):
    await stub.Generate(generate("ok"))
    (server,), (client,) = await watch.spans(1), await watch.spans(1, CLIENT)
    assert server.trace_id == client.trace_id
    assert server.parent_span_id == client.span_id
    assert not client.parent_span_id
    assert server.name == client.name == GENERATE
    host, port = target.split(":")
    assert attributes(client.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": GENERATE,
        "rpc.status_code": "OK",
        "server.address": host,
        "server.port": int(port),
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "qwire",
        "gen_ai.request.model": "ok",
    }
    told = attributes(server.attributes)
    assert told.pop("qwire.request.id")
    assert told == {"rpc.system.name": "grpc", "rpc.method": GENERATE, "rpc.status_code": "OK"}
    assert client.start_time_unix_nano <= server.start_time_unix_nano < server.end_time_unix_nano


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("model", "code", "server_error"),
    [
        ("ok", "OK", False),
        ("raise", "UNKNOWN", True),
        ("CANCELLED", "CANCELLED", False),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT", False),
        ("NOT_FOUND", "NOT_FOUND", False),
        ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", False),
        ("FAILED_PRECONDITION", "FAILED_PRECONDITION", False),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", True),
        ("INTERNAL", "INTERNAL", True),
        ("UNAVAILABLE", "UNAVAILABLE", True),
    ],
)
async def test_every_end_is_told_alike_in_span_metric_and_line(
    watch: Watch, stub: Any, model: str, code: str, *, server_error: bool, streamed: bool
):
    assert await outcome(stub, model, streamed=streamed) == code
    (server,), (client,), (line,) = await watch.spans(1), await watch.spans(1, CLIENT), await watch.finished(1)
    told = attributes(server.attributes)
    assert told["rpc.status_code"] == attributes(client.attributes)["rpc.status_code"] == code
    assert told.get("error.type") == (code if server_error else None)
    assert server.status.code == (Status.STATUS_CODE_ERROR if server_error else Status.STATUS_CODE_UNSET)
    assert client.status.code == (Status.STATUS_CODE_UNSET if code == "OK" else Status.STATUS_CODE_ERROR)
    assert (line["method"], line["code"], line["level"]) == (STREAM if streamed else GENERATE, code, "info")
    duration_ms = (server.end_time_unix_nano - server.start_time_unix_nano) / 1e6
    assert line["duration_ms"] == pytest.approx(duration_ms, abs=0.01)
    (point,) = watch.receiver.points("rpc.server.call.duration")
    assert attributes(point.attributes)["rpc.status_code"] == code
    assert point.sum == pytest.approx(duration_ms / 1000, abs=1e-5)
    (exemplar,) = watch.receiver.exemplars("rpc.server.call.duration")
    assert (exemplar.trace_id, exemplar.span_id) == (server.trace_id, server.span_id)


async def test_a_status_that_is_set_rather_than_raised_counts(watch: Watch, stub: Any):
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.CountTokens(pb.CountTokensRequest())
    (server,) = await watch.spans(1)
    assert attributes(server.attributes)["rpc.status_code"] == "FAILED_PRECONDITION"


async def test_a_cancelled_call_ends_both_spans_as_cancelled(watch: Watch, service: FickleService, stub: Any):
    call = stub.Generate(generate("wait"))
    await service.entered.wait()
    call.cancel()
    (server,), (client,) = await watch.spans(1), await watch.spans(1, CLIENT)
    assert attributes(server.attributes)["rpc.status_code"] == "CANCELLED"
    assert server.status.code == Status.STATUS_CODE_UNSET
    assert attributes(client.attributes)["rpc.status_code"] == "CANCELLED"
    assert client.status.code == Status.STATUS_CODE_ERROR


async def test_a_cancelled_stream_ends_both_spans_after_its_handler_is_closed(
    watch: Watch, service: FickleService, stub: Any
):
    call = stub.StreamGenerate(stream("wait"))
    await call.read()
    call.cancel()
    (server,), (client,) = await watch.spans(1), await watch.spans(1, CLIENT)
    assert attributes(server.attributes)["rpc.status_code"] == "CANCELLED"
    assert attributes(client.attributes)["rpc.status_code"] == "CANCELLED"
    assert service.closed == ["wait"]
    # The handler's last words still belong to the call.
    (closed,) = watch.lines.of("closed")
    assert closed["trace_id"] == server.trace_id.hex()


async def test_a_stream_that_waits_for_the_network_is_closed_at_a_cancel(
    watch: Watch, service: FickleService, stub: Any
):
    call = stub.StreamGenerate(stream("flood"))
    await call.read()
    await asyncio.sleep(0.1)  # until the window is full and the server waits in a write
    call.cancel()
    (server,) = await watch.spans(1)
    assert attributes(server.attributes)["rpc.status_code"] == "CANCELLED"
    assert service.closed == ["flood"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_deadline_ends_both_spans_as_such(watch: Watch, stub: Any, *, streamed: bool):
    assert await outcome(stub, "wait", streamed=streamed, timeout_s=0.3) == "DEADLINE_EXCEEDED"
    (server,), (client,) = await watch.spans(1), await watch.spans(1, CLIENT)
    for span in (server, client):
        assert attributes(span.attributes)["rpc.status_code"] == "DEADLINE_EXCEEDED"
        assert span.status.code == Status.STATUS_CODE_ERROR


async def test_a_call_whose_request_never_comes_is_told(watch: Watch, channel: grpc.aio.Channel):
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    # A client that streams requests to a method that expects one: the headers go out, the request does not.
    call = channel.stream_unary(f"/{GENERATE}")(never(), metadata=(("x-request-id", "headers-only"),))
    await asyncio.sleep(0.2)
    call.cancel()
    (server,), (line,) = await watch.spans(1), await watch.finished(1)
    assert attributes(server.attributes)["rpc.status_code"] == "CANCELLED"
    assert (line["code"], line["request_id"], line["trace_id"]) == ("CANCELLED", "headers-only", server.trace_id.hex())


async def test_a_request_that_cannot_be_parsed_is_told(watch: Watch, channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary(f"/{GENERATE}")(b"\xff\xff\xff")
    (server,) = await watch.spans(1)
    assert attributes(server.attributes)["rpc.status_code"] == "UNKNOWN"


async def test_an_unknown_method_names_no_span(watch: Watch, channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/qwire.v1.GenerateService/Nonsense")(b"")
    (server,), (line,) = await watch.spans(1), await watch.finished(1)
    assert server.name == "grpc"
    told = attributes(server.attributes)
    assert told["rpc.method"] == "_OTHER"
    assert told["rpc.method_original"] == "qwire.v1.GenerateService/Nonsense"
    assert told["rpc.status_code"] == line["code"] == "UNIMPLEMENTED"
    (point,) = watch.receiver.points("rpc.server.call.duration")
    assert attributes(point.attributes)["rpc.method"] == "_OTHER"


async def test_no_end_is_lost_or_told_twice_under_random_cancels(watch: Watch, stub: Any):
    randomness = random.Random(7)  # noqa: S311 - no secret

    async def cancelled_somewhere(model: str) -> None:
        call = stub.StreamGenerate(stream(model)) if randomness.random() < 0.7 else stub.Generate(generate(model))
        await asyncio.sleep(randomness.random() * 0.03)
        call.cancel()
        await call.code()

    models = ["ok", "wait", "flood", "NOT_FOUND"]
    await asyncio.gather(*(cancelled_somewhere(models[number % 4]) for number in range(80)))

    def open_tasks() -> list[Any]:
        return [task for task in asyncio.all_tasks() if task.get_name().startswith("HandleExceptions")]

    await eventually(lambda: not open_tasks())
    watch.telemetry.flush()
    servers = [span for span in watch.receiver.spans if span.kind == Span.SPAN_KIND_SERVER]
    codes = {attributes(span.attributes)["rpc.status_code"] for span in servers}
    assert codes <= {"OK", "CANCELLED", "NOT_FOUND"}
    assert len({span.span_id for span in servers}) == len(servers) == len(watch.lines.of("rpc_finished"))
    clients = {span.span_id for span in watch.receiver.spans if span.kind == CLIENT}
    assert {span.parent_span_id for span in servers} <= clients


async def test_streams_of_requests_and_writing_handlers_are_traced(watch: Watch):
    async def echo(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def join(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def write(request: bytes, context: Any) -> None:
        await context.write(request)

    server = grpc.aio.server(interceptors=(TracingInterceptor(watch.telemetry),))
    handlers: Any = {
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Join": grpc.stream_unary_rpc_method_handler(join),
        "Write": grpc.unary_stream_rpc_method_handler(write),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.S", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert [item async for item in channel.stream_stream("/test.S/Echo")(iter([b"a", b"b"]))] == [b"a", b"b"]
        assert await channel.stream_unary("/test.S/Join")(iter([b"a", b"b"])) == b"ab"
        assert [item async for item in channel.unary_stream("/test.S/Write")(b"a")] == [b"a"]
    spans = {span.name: attributes(span.attributes)["rpc.status_code"] for span in await watch.spans(3)}
    assert spans == {"test.S/Echo": "OK", "test.S/Join": "OK", "test.S/Write": "OK"}
    await server.stop(None)


async def test_nothing_that_is_said_is_told(watch: Watch, stub: Any):
    for model in ("ok", "raise", "NOT_FOUND"):
        await outcome(stub, model, streamed=False)
        await outcome(stub, model, streamed=True)
    await watch.spans(6)
    assert CANARY.encode() not in watch.receiver.received_bytes()
    assert CANARY not in watch.lines.stream.getvalue()
