"""A stream that is resumed is one span of its client, whatever it took, and ends once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from qwire.client import AsyncClient, Cancelled, Client, ClientOptions, DeadlineExceeded, ResumeOptions, Unavailable
from qwire.client.testing import Answer, FakeServer
from tests.contract.traced import CANARY, STREAM, Watch, watched
from tests.support.otlp_receiver import attributes

FAST = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_attempts=2))
SLOW = ClientOptions(resume=ResumeOptions(initial_backoff_s=50, max_backoff_s=50))
BROKEN = Answer(text=f"one {CANARY} three four", drop_after=(1, 3))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    with watched(monkeypatch) as watch:
        yield watch


async def the_span(watch: Watch, code: str) -> Span:
    """The only span, which ended with this code."""
    (span,) = await watch.spans(1, Span.SPAN_KIND_CLIENT)
    assert span.name == STREAM
    assert attributes(span.attributes)["rpc.status_code"] == code
    assert span.status.code == (Status.STATUS_CODE_UNSET if code == "OK" else Status.STATUS_CODE_ERROR)
    return span


def one_parent(server: FakeServer, span: Span, calls: int) -> None:
    """Every call named the span as its parent."""
    parents = [str(call.metadata["traceparent"]).split("-")[2] for call in server.calls]
    assert parents == [span.span_id.hex()] * calls


async def test_breaks_are_events_of_one_span(watch: Watch):
    with FakeServer(answers=[BROKEN]) as server:
        with Client(server.target, FAST) as client:
            client.stream(CANARY).generation()
        span = await the_span(watch, "OK")
        one_parent(server, span, 3)
    assert attributes(span.attributes)["qwire.resume.count"] == 2
    assert [(event.name, attributes(event.attributes)) for event in span.events] == [
        ("qwire.resume", {"rpc.status_code": "UNAVAILABLE", "gen_ai.usage.output_tokens": tokens}) for tokens in (1, 3)
    ]
    assert CANARY.encode() not in watch.receiver.received_bytes()


async def test_breaks_are_events_of_one_span_with_asyncio(watch: Watch):
    with FakeServer(answers=[BROKEN]) as server:
        async with AsyncClient(server.target, FAST) as client:
            await client.stream("hi").generation()
        span = await the_span(watch, "OK")
        one_parent(server, span, 3)
    assert attributes(span.attributes)["qwire.resume.count"] == 2


async def test_an_undisturbed_stream_tells_of_no_resume(watch: Watch):
    with FakeServer() as server, Client(server.target) as client:
        client.stream("hi").generation()
    span = await the_span(watch, "OK")
    assert not span.events
    assert "qwire.resume.count" not in attributes(span.attributes)


@pytest.mark.parametrize("how", ["given up", "not wanted"])
async def test_a_break_that_stays_is_the_end(watch: Watch, how: str):
    with FakeServer(answers=[BROKEN]) as server:
        client = Client(server.target, FAST)
        stream = client.stream("hi", auto_resume=how == "given up")
        next(stream)
        next(stream)
        if how == "given up":
            server.__exit__(None, None, None)
        with pytest.raises(Unavailable):
            stream.generation()
        client.close()
    await the_span(watch, "UNAVAILABLE")


async def test_a_deadline_between_two_attempts_is_the_end(watch: Watch):
    with FakeServer(answers=[BROKEN]) as server:
        async with AsyncClient(server.target, SLOW) as client:
            with pytest.raises(DeadlineExceeded):
                await client.stream("hi", timeout_s=20).generation()
    await the_span(watch, "DEADLINE_EXCEEDED")


async def test_a_cancel_between_two_attempts_is_the_end(watch: Watch):
    with FakeServer(answers=[BROKEN]) as server, Client(server.target, SLOW) as client:
        stream = client.stream("hi")
        threading.Timer(0.5, stream.cancel).start()
        with pytest.raises(Cancelled):
            stream.generation()
    await the_span(watch, "CANCELLED")


@pytest.mark.parametrize("read", [0, 2, 4])
async def test_a_stream_that_is_dropped_ends_its_span(watch: Watch, read: int):
    with FakeServer("one two") as server, Client(server.target) as client:
        stream = client.stream("hi")
        for _ in range(read):
            next(stream)
        del stream
        gc.collect()
    await the_span(watch, "OK" if read == 4 else "CANCELLED")


@pytest.mark.parametrize("read", [0, 2, 4])
async def test_a_stream_that_is_left_ends_its_span_with_asyncio(watch: Watch, read: int):
    with FakeServer("one two") as server:
        async with AsyncClient(server.target) as client, client.stream("hi") as stream:
            for _ in range(read):
                await anext(stream)
    await the_span(watch, "OK" if read == 4 else "CANCELLED")
