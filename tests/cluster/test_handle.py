"""What a caller of replicas sees of what goes wrong on their side, and what stays there of calls that it left."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import time
from collections.abc import AsyncGenerator, Generator
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from typing_extensions import override

from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, NumericalError, QueueFull
from qwire.serve.answer import keep_answers_out_of_the_log
from qwire.serve.handle import ReplicaHandle
from qwire.serve.left_call import send_nothing_to_left_calls


class Crumbling:
    """A replica whose work is cancelled by itself, or goes on for ever."""

    def __init__(self) -> None:
        send_nothing_to_left_calls()
        keep_answers_out_of_the_log()
        self._kept = KeptRecords()
        logging.getLogger("ray.serve").addHandler(self._kept)

    async def fail(self, error: Exception) -> None:
        """Raise it."""
        raise error

    async def logged_errors(self) -> list[str]:
        """Return the kinds of the errors that Ray has logged here."""
        return [type(record.exc_info[1]).__name__ for record in self._kept.records if record.exc_info]

    async def cancelled(self) -> AsyncGenerator[int]:
        """Yield once, and end as a task does that is cancelled on this side."""
        yield 1
        raise asyncio.CancelledError

    async def endless(self) -> AsyncGenerator[int]:
        """Yield once, and never again."""
        yield 1
        await asyncio.Event().wait()

    async def process_id(self, but_not: int = 0) -> int:
        """Return the id of this process; never, if it is that one."""
        if os.getpid() == but_not:
            await asyncio.Event().wait()
        return os.getpid()

    async def native_bytes(self) -> int:
        """Return what the C library has given out to this process."""
        gc.collect()
        return mallinfo().uordblks


class KeptRecords(logging.Handler):
    """Keeps the errors that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = (
        *((f"unused{number}", ctypes.c_size_t) for number in range(7)),
        ("uordblks", ctypes.c_size_t),
        *((f"unused{number}", ctypes.c_size_t) for number in range(7, 9)),
    )
    uordblks: int


def mallinfo() -> MallInfo:
    """Return what the C library says of its memory."""
    function = ctypes.CDLL("libc.so.6").mallinfo2
    function.restype = MallInfo
    return function()


@pytest.fixture(scope="module")
def replicas(ray_cluster: None) -> Generator[ReplicaHandle]:  # noqa: ARG001
    """The only replica."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    deployment: Any = serve.deployment(Crumbling, max_ongoing_requests=100)
    yield ReplicaHandle(serve.run(deployment.bind(), name="crumbling", route_prefix=None))
    serve.delete("crumbling")


async def test_what_a_replica_cancels_is_lost_rather_than_cancelled(replicas: ReplicaHandle) -> None:
    stream = replicas.stream("cancelled")
    assert await anext(stream) == 1
    with pytest.raises(EngineUnavailable):
        await anext(stream)


async def test_what_its_caller_cancels_is_cancelled(replicas: ReplicaHandle) -> None:
    stream = replicas.stream("endless")
    assert await anext(stream) == 1
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_ray_logs_what_failed_and_no_answers(replicas: ReplicaHandle) -> None:
    for error in (QueueFull(1.0), DeadlineExceeded(), NumericalError()):
        with pytest.raises(type(error)):
            await replicas.call("fail", error, timeout_s=10)
    with pytest.raises(RuntimeError, match="broken"):
        await replicas.call("fail", RuntimeError("broken"), timeout_s=10)
    assert await replicas.call("logged_errors", timeout_s=10) == ["NumericalError", "RuntimeError"]


async def test_a_replica_that_hangs_answers_for_itself_alone(ray_cluster: None) -> None:  # noqa: ARG001
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    deployment: Any = serve.deployment(Crumbling, num_replicas=2, max_ongoing_requests=100)
    replicas = ReplicaHandle(serve.run(deployment.bind(), name="pair", route_prefix=None))
    try:
        both = (await replicas.broadcast("process_id", timeout_s=20)).values
        assert len(set(both)) == 2
        began = time.monotonic()
        answers = await replicas.broadcast("process_id", both[0], timeout_s=2)
        assert (answers.values, answers.missing) == ([both[1]], 1)
        assert time.monotonic() - began < 10
    finally:
        serve.delete("pair")


async def test_calls_that_are_left_leave_nothing_behind(replicas: ReplicaHandle) -> None:
    async def leave(calls: int) -> None:
        for _ in range(calls):
            stream = replicas.stream("endless")
            assert await anext(stream) == 1
            await stream.aclose()

    async def held_bytes_after(calls: int) -> int:
        await asyncio.gather(*(leave(calls // 8) for _ in range(8)))
        await asyncio.sleep(1)  # until the last of them have ended
        return await replicas.call("native_bytes", timeout_s=10)

    calls = 1600
    held_bytes = [await held_bytes_after(calls) for _ in range(5)]
    # Other things grow and shrink there, too; what each call leaves behind shows most of the time.
    assert median(after - before for before, after in pairwise(held_bytes)) / calls < 100
