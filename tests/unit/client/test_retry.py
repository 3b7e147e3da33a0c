"""gRPC's own retries, as the service config declares them: they really happen, and only where they may."""

from __future__ import annotations

import time
from itertools import repeat

import grpc
import pytest

from qwire.client import AsyncClient, Cancelled, Client, ClientOptions, RetryOptions, ServerError, Unavailable
from qwire.client.testing import Answer, Failure, FakeServer

_UNAVAILABLE = Failure()
_FAST = RetryOptions(initial_backoff_s=0.01, max_backoff_s=0.02)


def test_unavailable_twice_then_an_answer() -> None:
    failures = {"Generate": [_UNAVAILABLE] * 2, "StreamGenerate": [_UNAVAILABLE] * 2}
    with FakeServer(failures=failures) as server, Client(server.target) as client:
        assert client.generate("hi").text == "hello"
        assert client.stream("hi").generation().text == "hello"
        assert len(server.calls_of("Generate")) == 3
        assert len(server.calls_of("StreamGenerate")) == 3


async def test_unavailable_twice_then_an_answer_with_asyncio() -> None:
    with FakeServer(failures={"StreamGenerate": [_UNAVAILABLE] * 2}) as server:
        async with AsyncClient(server.target) as client:
            assert (await client.stream("hi").generation()).text == "hello"
        assert len(server.calls_of("StreamGenerate")) == 3


def test_five_attempts_at_most() -> None:
    with FakeServer(failures={"Generate": repeat(_UNAVAILABLE)}) as server:
        with Client(server.target, ClientOptions(retry=_FAST)) as client, pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 5


def test_never_after_the_first_message() -> None:
    answer = Answer(text="one two", failure=_UNAVAILABLE, failure_after=1)
    with FakeServer(answers=[answer]) as server, Client(server.target) as client:
        stream = client.stream("hi", auto_resume=False)
        with pytest.raises(Unavailable):
            stream.generation()
        assert stream.text == "one"
        assert len(server.calls) == 1


def test_no_other_status_is_retried() -> None:
    failure = Failure(code=grpc.StatusCode.INTERNAL, reason="INTERNAL")
    with FakeServer(failures={"Generate": repeat(failure)}) as server, Client(server.target) as client:
        with pytest.raises(ServerError):
            client.generate("hi")
        assert len(server.calls) == 1


def test_pushback_is_waited_for() -> None:
    with FakeServer(failures={"Generate": [Failure(pushback_ms=400)]}) as server:
        with Client(server.target, ClientOptions(retry=_FAST)) as client:
            began = time.monotonic()
            client.generate("hi")
        assert time.monotonic() - began >= 0.4
        assert len(server.calls) == 2


def test_pushback_may_forbid_a_retry() -> None:
    with FakeServer(failures={"Generate": repeat(Failure(pushback_ms=-1))}) as server:
        with Client(server.target) as client, pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 1


def test_what_a_closing_server_dropped_is_sent_again() -> None:
    dropped = Failure(code=grpc.StatusCode.CANCELLED, reason="", message="CANCELLED")
    failures = {"Generate": [dropped] * 2, "StreamGenerate": [dropped] * 2, "ListModels": [dropped] * 2}
    with FakeServer(failures=failures) as server, Client(server.target) as client:
        assert client.generate("hi").text == "hello"
        assert client.stream("hi").generation().text == "hello"
        assert client.models()
        assert [len(server.calls_of(method)) for method in failures] == [3, 3, 3]


def test_what_was_cancelled_by_its_id_is_not_sent_again() -> None:
    cancelled = Failure(code=grpc.StatusCode.CANCELLED, reason="CANCELLED")
    with FakeServer(failures={"Generate": repeat(cancelled)}) as server, Client(server.target) as client:
        with pytest.raises(Cancelled):
            client.generate("hi")
        assert len(server.calls) == 1


async def test_leaving_streams_takes_no_retries_away() -> None:
    failures = {"Generate": [_UNAVAILABLE] * 2}
    with FakeServer(answers=[Answer(text="word " * 20, delay_s=0.01)], failures=failures) as server:
        async with AsyncClient(server.target) as client:
            for _ in range(120):
                async with client.stream("hi") as stream:
                    await anext(stream)
            await client.generate("hi")
        assert len(server.calls_of("Generate")) == 3


def test_a_server_that_keeps_failing_is_not_retried_where_that_is_asked_for() -> None:
    throttled = RetryOptions(initial_backoff_s=0.01, throttle_tokens=2)
    with FakeServer(failures={"Generate": repeat(_UNAVAILABLE)}) as server:
        with Client(server.target, ClientOptions(retry=throttled)) as client, pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 1


def test_no_retries_where_none_are_wanted() -> None:
    with FakeServer(failures={"Generate": repeat(_UNAVAILABLE)}) as server:
        with Client(server.target, ClientOptions(retry=None)) as client, pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 1
