"""A whole generation whose server is lost is asked for again: after which failures, for how long, and by whom."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import chain, repeat

import grpc
import pytest

from qwire.client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientOptions,
    DeadlineExceeded,
    Overloaded,
    ResumeOptions,
    ServerError,
    Unavailable,
)
from qwire.client.testing import Failure, FakeServer

LOST = Failure(reason="")
BUSY = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_s=0.01)
# Without gRPC's own retries, so that each call that the server sees is one of the client's attempts.
FAST = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_backoff_s=0.02), retry=None)
SLOW = ClientOptions(resume=ResumeOptions(initial_backoff_s=50, max_backoff_s=50), retry=None)


def test_a_lost_answer_is_asked_for_until_it_comes() -> None:
    with FakeServer(failures={"Generate": [None, *[LOST] * 8]}) as server, Client(server.target, FAST) as client:
        client.generate("hi")
        assert client.generate("hi").text == "hello"
        assert len(server.calls) == 1 + 9


async def test_a_lost_answer_is_asked_for_until_it_comes_with_asyncio() -> None:
    with FakeServer(failures={"Generate": [None, *[LOST] * 8]}) as server:
        async with AsyncClient(server.target, FAST) as client:
            await client.generate("hi")
            assert (await client.generate("hi")).text == "hello"
        assert len(server.calls) == 1 + 9


def test_who_takes_over_may_be_busy() -> None:
    failures = [None, LOST, BUSY, Failure()]
    with FakeServer(failures={"Generate": failures}) as server, Client(server.target, FAST) as client:
        client.generate("hi")
        assert client.generate("hi").text == "hello"


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (BUSY, Overloaded),
        (Failure(), Unavailable),
        (Failure(code=grpc.StatusCode.INTERNAL, reason="INTERNAL"), ServerError),
        (Failure(reason="", pushback_ms=-1), Unavailable),
    ],
    ids=["busy", "cannot", "bug", "forbidden"],
)
def test_a_server_that_says_why_is_not_lost(failure: Failure, error: type[Exception]) -> None:
    failures = {"Generate": chain([None], repeat(failure))}
    with FakeServer(failures=failures) as server, Client(server.target, FAST) as client:
        client.generate("hi")
        with pytest.raises(error):
            client.generate("hi")
        assert len(server.calls) == 2


def test_where_nobody_ever_answered_the_caller_is_told_at_once() -> None:
    with FakeServer(failures={"Generate": repeat(LOST)}) as server, Client(server.target, FAST) as client:
        with pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 1


@pytest.mark.parametrize("bound", ["attempts", "time"])
def test_attempts_are_bounded(bound: str) -> None:
    many = ResumeOptions(initial_backoff_s=0.05, max_backoff_s=0.05, timeout_s=0.3)
    few = ResumeOptions(initial_backoff_s=0.01, max_attempts=3)
    options = ClientOptions(resume=few if bound == "attempts" else many, retry=None)
    failures = {"Generate": chain([None], repeat(LOST))}
    with FakeServer(failures=failures) as server, Client(server.target, options) as client:
        client.generate("hi")
        with pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 1 + 4 if bound == "attempts" else 3 <= len(server.calls) <= 10


def test_without_resume_it_is_asked_once() -> None:
    options = ClientOptions(resume=None, retry=None)
    failures = {"Generate": chain([None], repeat(LOST))}
    with FakeServer(failures=failures) as server, Client(server.target, options) as client:
        client.generate("hi")
        with pytest.raises(Unavailable):
            client.generate("hi")
        assert len(server.calls) == 2


def test_never_beyond_the_time_allowed() -> None:
    failures = {"Generate": chain([None], repeat(LOST))}
    with FakeServer(failures=failures) as server, Client(server.target, SLOW) as client:
        client.generate("hi")
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.generate("hi", timeout_s=30)
        assert time.monotonic() - began < 25


def test_closing_the_client_ends_the_wait() -> None:
    failures = {"Generate": chain([None], repeat(LOST))}
    with FakeServer(failures=failures) as server:
        client = Client(server.target, SLOW)
        client.generate("hi")
        closing = threading.Thread(target=_close_after, args=(client, server, 2))
        closing.start()
        with pytest.raises(Cancelled):
            client.generate("hi")
        closing.join()


async def test_closing_the_client_ends_the_wait_with_asyncio() -> None:
    failures = {"Generate": chain([None], repeat(LOST))}
    with FakeServer(failures=failures) as server:
        client = AsyncClient(server.target, SLOW)
        await client.generate("hi")
        waiting = asyncio.ensure_future(client.generate("hi"))
        while len(server.calls) < 2:  # noqa: ASYNC110 - the state of a server in threads
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(Cancelled):
            await waiting


async def test_a_task_that_is_cancelled_waits_no_longer() -> None:
    failures = {"Generate": chain([None], repeat(LOST))}
    with FakeServer(failures=failures) as server:
        async with AsyncClient(server.target, SLOW) as client:
            await client.generate("hi")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.generate("hi"), 0.5)
            assert len(server.calls) == 2


def _close_after(client: Client, server: FakeServer, calls: int) -> None:
    while len(server.calls) < calls:
        time.sleep(0.01)
    time.sleep(0.1)
    client.close()
