"""The client's span ends exactly once, however its call ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from qwire.client.tracing import aio_client_interceptors, client_interceptors
from qwire.v1 import generate_pb2 as pb
from qwire.v1 import types_pb2
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from tests.contract.traced import (
    CANARY,
    STREAM,
    FickleService,
    Watch,
    fickle_server,
    generate,
    stream,
    watched,
)
from tests.support.otlp_receiver import attributes

CLIENT = Span.SPAN_KIND_CLIENT


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    with watched(monkeypatch) as watch:
        yield watch


@pytest.fixture
async def target(watch: Watch) -> AsyncGenerator[str]:
    async with fickle_server(watch.telemetry, FickleService()) as target:
        yield target


@pytest.fixture
async def aio_stub(target: str) -> AsyncGenerator[Any]:
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors(target)) as channel:
        yield GenerateServiceStub(channel)


@pytest.fixture(params=[(), (("SingleThreadedUnaryStream", 1),)], ids=["", "single-threaded"])
def stub(target: str, request: pytest.FixtureRequest) -> Generator[Any]:
    with grpc.insecure_channel(target, request.param) as channel:
        yield GenerateServiceStub(grpc.intercept_channel(channel, *client_interceptors(target)))


async def client_status(watch: Watch) -> str:
    """The status of the one client span."""
    (span,) = await watch.spans(1, CLIENT)
    code = str(attributes(span.attributes)["rpc.status_code"])
    assert span.status.code == (Status.STATUS_CODE_UNSET if code == "OK" else Status.STATUS_CODE_ERROR)
    assert attributes(span.attributes).get("error.type") == (None if code == "OK" else code)
    return code


@pytest.mark.parametrize("read", [0, 1])
async def test_a_stream_that_is_not_read_to_its_end_ends_with_its_channel(watch: Watch, target: str, read: int):
    # grpc.aio itself keeps a dropped call until its channel is closed.
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors(target)) as channel:
        stub: Any = GenerateServiceStub(channel)
        call = stub.StreamGenerate(stream("wait"))
        await call.initial_metadata()
        for _ in range(read):
            await call.read()
        del call
    assert await client_status(watch) == "CANCELLED"
    (server,) = await watch.spans(1)
    assert attributes(server.attributes)["rpc.status_code"] == "CANCELLED"


async def test_a_cancelled_task_ends_its_call(watch: Watch, aio_stub: Any):
    async def read() -> None:
        async for _ in aio_stub.StreamGenerate(stream("wait")):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await client_status(watch) == "CANCELLED"


async def test_a_server_that_is_not_there_is_an_error(watch: Watch):
    async with grpc.aio.insecure_channel(
        "127.0.0.1:1", interceptors=aio_client_interceptors("dns:///qwire.test:1")
    ) as channel:
        stub: Any = GenerateServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Generate(generate("ok"))
    assert await client_status(watch) == "UNAVAILABLE"
    (span,) = await watch.spans(1, CLIENT)
    told = attributes(span.attributes)
    assert (told["server.address"], told["server.port"]) == ("qwire.test", 1)


async def test_the_span_of_the_application_is_the_parent(watch: Watch, aio_stub: Any):
    with trace.get_tracer("application").start_as_current_span("work"):
        await aio_stub.Generate(generate("ok"), metadata=(("authorization", "kept"), ("traceparent", "replaced")))
    (server,), (client,) = await watch.spans(1), await watch.spans(1, CLIENT)
    work = watch.receiver.span("work")
    assert client.parent_span_id == work.span_id
    assert server.parent_span_id == client.span_id


async def test_options_that_shape_the_answer_are_told_and_nothing_that_is_said(watch: Watch, aio_stub: Any):
    spec = types_pb2.GenerationSpec(
        model="ok",
        chat=types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role=types_pb2.ROLE_USER, text=CANARY)]),
        sampling=types_pb2.SamplingOptions(temperature=0.5, top_k=7, seed=2**64 - 1),
        stop=types_pb2.StopOptions(max_output_tokens=9, stop_strings=[CANARY]),
    )
    async for _ in aio_stub.StreamGenerate(pb.StreamGenerateRequest(spec=spec)):
        pass
    (span,) = await watch.spans(1, CLIENT)
    told = attributes(span.attributes)
    assert {key: value for key, value in told.items() if key.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "qwire",
        "gen_ai.request.model": "ok",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.max_tokens": 9,
    }
    assert CANARY.encode() not in watch.receiver.received_bytes()


@pytest.mark.parametrize("model", ["ok", "NOT_FOUND", "UNAVAILABLE"])
@pytest.mark.parametrize("how", ["blocking", "with_call", "future", "stream"])
async def test_blocking_calls_end_their_span(watch: Watch, stub: Any, model: str, how: str):
    def call() -> None:
        try:
            match how:
                case "blocking":
                    stub.Generate(generate(model))
                case "with_call":
                    stub.Generate.with_call(generate(model))
                case "future":
                    stub.Generate.future(generate(model)).result()
                case _:
                    assert [response.sequence for response in stub.StreamGenerate(stream(model))] == [1, 2]
        except grpc.RpcError as error:
            assert error.code().name == model  # noqa: PT017 - of a thread

    await asyncio.to_thread(call)
    assert await client_status(watch) == ("OK" if model == "ok" else model)
    (server,), (client,) = await watch.spans(1), await watch.spans(1, CLIENT)
    assert server.parent_span_id == client.span_id


@pytest.mark.parametrize("how", ["cancelled", "dropped", "dropped unread", "overdue"])
async def test_blocking_streams_that_stop_early_end_their_span(watch: Watch, stub: Any, how: str):
    def call() -> None:
        stream_call = stub.StreamGenerate(stream("wait"), timeout=0.5 if how == "overdue" else None)
        if how != "dropped unread":
            assert next(stream_call).sequence == 1
        if how == "overdue":
            with pytest.raises(grpc.RpcError):
                next(stream_call)
        if how == "cancelled":
            stream_call.cancel()
            assert stream_call.code() is grpc.StatusCode.CANCELLED

    await asyncio.to_thread(call)
    gc.collect()
    assert await client_status(watch) == ("DEADLINE_EXCEEDED" if how == "overdue" else "CANCELLED")


async def test_many_threads_end_each_span_once(watch: Watch, stub: Any):
    def call(number: int) -> None:
        stream_call = stub.StreamGenerate(stream("flood"))
        for _ in range(number % 3):
            next(stream_call)
        threading.Thread(target=stream_call.cancel).start()

    await asyncio.gather(*(asyncio.to_thread(call, number) for number in range(24)))
    spans = await watch.spans(24, CLIENT)
    assert {attributes(span.attributes)["rpc.status_code"] for span in spans} == {"CANCELLED"}
    assert {span.name for span in spans} == {STREAM}


def test_without_opentelemetry_there_are_no_interceptors():
    program = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] == "opentelemetry"
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from qwire.client.tracing import aio_client_interceptors, client_interceptors
assert client_interceptors() == aio_client_interceptors() == []
from qwire.client import Client
from qwire.client.testing import Answer, FakeServer
with FakeServer(answers=[Answer(text="one two", drop_after=(1,))]) as server, Client(server.target) as client:
    assert client.stream("hi").generation().text == "one two"
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_importing_the_module_does_not_import_opentelemetry():
    program = """
import sys
import qwire.client.tracing as tracing
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
tracing.aio_client_interceptors(), tracing.client_interceptors()
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
