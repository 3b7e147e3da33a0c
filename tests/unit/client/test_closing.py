"""A client that is closed, and a reader that is given up: the calls end as cancelled, and no task does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from itertools import repeat
from typing import Any

import pytest

from qwire.client import AsyncClient, Cancelled, Client, ClientOptions, ResumeOptions
from qwire.client.testing import Answer, Failure, FakeServer

_SLOW = Answer(text="one two three", delay_s=60)

_LOST = Failure(reason="")
_SLOWLY = ClientOptions(resume=ResumeOptions(initial_backoff_s=50, max_backoff_s=50), retry=None)
_TENANT = ClientOptions(tenant="somebody")  # an interceptor, behind which gRPC ends calls in its own way

_Use = Callable[[AsyncClient], Coroutine[Any, Any, object]]


async def _health(client: AsyncClient) -> None:
    async for _ in client.watch_health():
        pass


async def _batch(client: AsyncClient) -> None:
    async for _ in client.stream_batch(["hi"]):
        pass


_USES: dict[str, _Use] = {
    "generate": lambda client: client.generate("hi"),
    "stream": lambda client: client.stream("hi").generation(),
    "batch": _batch,
    "whole batch": lambda client: client.batch(["hi"]),
    "health": _health,
}


@pytest.mark.parametrize("options", [ClientOptions(), _TENANT], ids=["plain", "with a tenant"])
@pytest.mark.parametrize("use", _USES)
async def test_what_is_open_ends_as_cancelled(use: str, options: ClientOptions) -> None:
    with FakeServer(answers=[_SLOW]) as server:
        client = AsyncClient(server.target, options)
        task = asyncio.create_task(_USES[use](client))
        while not server.calls:  # noqa: ASYNC110 - the state of a server in threads
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(Cancelled):
            await task
        assert not task.cancelled()


async def test_a_watch_that_waits_for_its_next_attempt_ends_as_cancelled() -> None:
    with FakeServer(failures={"WatchBatchJob": repeat(_LOST)}) as server:
        client = AsyncClient(server.target, _SLOWLY)
        job = await client.jobs.create()
        watch = client.jobs.watch(job.id)
        task = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.5)
        await client.close()
        with pytest.raises(Cancelled):
            await asyncio.wait_for(task, 20)


def test_a_watch_that_waits_for_its_next_attempt_ends_as_cancelled_in_threads_too() -> None:
    with FakeServer(failures={"WatchBatchJob": repeat(_LOST)}) as server:
        client = Client(server.target, _SLOWLY)
        job = client.jobs.create()
        threading.Timer(0.5, client.close).start()
        with pytest.raises(Cancelled):
            list(client.jobs.watch(job.id))


@pytest.mark.parametrize("options", [ClientOptions(), _TENANT], ids=["plain", "with a tenant"])
async def test_a_stream_whose_reader_was_given_up_says_that_it_is_cancelled(options: ClientOptions) -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target, options) as client:
            stream = client.stream("hi")
            await anext(stream)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.2)
            with pytest.raises(Cancelled):
                await anext(stream)


async def test_a_stream_given_up_between_two_attempts_makes_no_other_one() -> None:
    answer = Answer(text="one two three", drop_after=(1,))
    with FakeServer(answers=[answer]) as server:
        async with AsyncClient(server.target, _SLOWLY) as client:
            stream = client.stream("hi")
            await anext(stream)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.generation(), 0.5)
            with pytest.raises(Cancelled):
                await anext(stream)
            assert len(server.calls) == 1
