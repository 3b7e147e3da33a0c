"""What is known of a model's replicas, and that nobody waits to know it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from qwire.engine.errors import EngineUnavailable
from qwire.serve import fleet
from qwire.serve.fleet import Fleet
from qwire.serve.handle import Answers, ReplicaHandle


class FakeReplicas:
    def __init__(self) -> None:
        self.ids: list[str] = []
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()

    async def broadcast(self, method: str, *args: Any, timeout_s: float) -> Answers:
        assert (method, args) == ("presence", ("v1",))
        assert timeout_s > 0
        self.asked += 1
        await self.answer.wait()
        if not self.ids:
            raise EngineUnavailable
        return Answers(list(self.ids), missing=0)


@pytest.fixture
def replicas() -> FakeReplicas:
    return FakeReplicas()


@pytest.fixture
def subject(replicas: FakeReplicas, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(fleet, "_FRESH_S", 0.0)
    return Fleet(cast("ReplicaHandle", replicas), "v1")


async def looked(subject: Fleet) -> float:
    """Look, and return a moment after that."""
    subject.look()
    await asyncio.sleep(0.01)
    return time.monotonic()


async def test_the_share_is_of_those_that_came_since(subject: Fleet, replicas: FakeReplicas) -> None:
    assert subject.new_share(0.0) == 0.0
    replicas.ids = ["a"]
    first = await looked(subject)
    assert subject.new_share(0.0) == 0.0, "it may have been there for long"
    replicas.ids = ["a", "b", "c", "d"]
    second = await looked(subject)
    assert subject.new_share(first) == 0.75
    assert subject.new_share(second) == 0.0
    # One that does not answer for once is not new when it does.
    for replicas.ids in (["a"], [], ["a", "b"]):
        await looked(subject)
    assert subject.new_share(second) == 0.0


async def test_a_replica_that_hangs_holds_up_nobody(subject: Fleet, replicas: FakeReplicas) -> None:
    replicas.ids = ["a"]
    await looked(subject)
    replicas.answer.clear()
    for _ in range(3):
        await looked(subject)
    assert replicas.asked == 2, "one question at a time"
    replicas.ids = ["a", "b"]
    since = time.monotonic()
    replicas.answer.set()
    await asyncio.sleep(0.01)
    assert subject.new_share(since) == 0.5, "new since it was told of, however long ago it was asked for"
    replicas.answer.clear()
    await looked(subject)
    await subject.close()
