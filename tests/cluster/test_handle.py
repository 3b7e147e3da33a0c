"""What a caller of replicas gets to see of what goes wrong on their side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from qwire.engine.errors import EngineUnavailable
from qwire.serve.handle import ReplicaHandle


class Crumbling:
    """A replica whose work is cancelled by itself, or goes on for ever."""

    async def cancelled(self) -> AsyncGenerator[int]:
        """Yield once, and end as a task does that is cancelled on this side."""
        yield 1
        raise asyncio.CancelledError

    async def endless(self) -> AsyncGenerator[int]:
        """Yield once, and never again."""
        yield 1
        await asyncio.Event().wait()


@pytest.fixture(scope="module")
def replicas(ray_cluster: None) -> Generator[ReplicaHandle]:  # noqa: ARG001
    """The only replica."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    deployment: Any = serve.deployment(Crumbling)
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
