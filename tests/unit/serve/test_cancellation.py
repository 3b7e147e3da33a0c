"""A generation can be cancelled wherever it is: at a replica, between two, or on its way to a new one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from qwire.engine.errors import EngineUnavailable, GenerationCancelled
from qwire.engine.fake import FakeEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.serve import fleet, remote
from qwire.serve.config import ReplicaSettings
from qwire.serve.handle import Answers, ReplicaHandle
from qwire.serve.remote import RemoteEngine
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.setup import Telemetry

REQUEST = TokenRequest((7, 8, 9), Envelope("id"), StopParams(max_output_tokens=12))


def engine_of(replicas: object) -> RemoteEngine:
    recorder = FailoverRecorder(Telemetry.disabled(), "tiny")
    return RemoteEngine(cast("ReplicaHandle", replicas), "v1", ReplicaSettings(failover_timeout_s=60.0), recorder)


class Dying:
    """A replica that dies under its first call, and others that say how they cancel."""

    def __init__(self, missing: int = 0, *, found: bool = False) -> None:
        self.calls = 0
        self._missing = missing
        self.found = found

    async def stream(self, _method: str, request: TokenRequest, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        self.calls += 1
        dies = self.calls == 1
        engine = FakeEngine(fail_after=3 if dies else None, failure=EngineUnavailable(0.0), step_s=0.001)
        async for chunk in engine.generate(request):
            yield chunk

    async def broadcast(self, method: str, *_: Any, **__: Any) -> Answers:
        return Answers([self.found if method == "cancel" else "replica"], missing=self._missing)


@pytest.mark.parametrize(("missing", "found"), [(0, False), (1, False), (0, True)])
async def test_one_that_looks_for_a_replica_is_cancelled_where_it_looks(
    monkeypatch: pytest.MonkeyPatch,
    missing: int,
    found: bool,  # noqa: FBT001
) -> None:
    replicas = Dying(missing, found=found)  # who finds it may be the one that was lost, and lives
    engine = engine_of(replicas)
    waits = asyncio.Event()

    async def wait(*_: object) -> None:
        waits.set()
        await asyncio.sleep(0.05)

    monkeypatch.setattr("qwire.serve.patience.Patience.wait", wait)

    async def cancel() -> bool:
        await waits.wait()
        return await engine.cancel("id")

    tokens: list[int] = []

    async def collect() -> None:
        async with asyncio.timeout(20), aclosing(engine.generate(REQUEST)) as chunks:
            async for chunk in chunks:
                tokens.extend(chunk.token_ids)

    cancelling = asyncio.create_task(cancel())
    with pytest.raises(GenerationCancelled):
        await collect()
    assert await cancelling
    assert tokens == [7, 8, 9]
    assert replicas.calls == 1
    replicas.found = False
    if missing:
        with pytest.raises(EngineUnavailable):
            await engine.cancel("id")
    else:
        assert not await engine.cancel("id")  # it is over, and nothing is left of it
    assert [token async for chunk in engine.generate(REQUEST) for token in chunk.token_ids] == [7, 8, 9] * 4


class Hanging:
    """A full replica, and later a new one; a third one never answers, so that nobody knows how a cancel went."""

    def __init__(self) -> None:
        self.running = 1
        self.old, self.new = FakeEngine(max_running=1, step_s=0.01), FakeEngine(max_running=1, step_s=0.01)

    async def stream(self, _method: str, *args: Any, **_: object) -> AsyncGenerator[Any, None]:
        request, _version, route = args
        route.replica, engine = ("new", self.new) if "old" in route.lost else ("old", self.old)
        async for chunk in engine.generate(request):
            yield chunk

    async def broadcast(self, method: str, *args: Any, **_: Any) -> Answers:
        if method == "presence":
            return Answers(["old", "new"][: self.running], missing=0)
        for engine in (self.old, self.new):
            await engine.cancel(args[0], only_waiting=args[1])
        await asyncio.Event().wait()
        raise AssertionError


async def test_who_goes_to_a_new_replica_waits_for_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_LOOK_S", 0.02)
    monkeypatch.setattr(fleet, "_FRESH_S", 0.01)
    monkeypatch.setattr(remote, "random", random.Random(1))  # noqa: S311 - no secret
    replicas = Hanging()
    engine = engine_of(replicas)
    outputs: list[list[int]] = []

    async def ask(number: int) -> None:
        request = replace(REQUEST, envelope=Envelope(str(number)), stop=StopParams(max_output_tokens=20))
        outputs.append([token async for chunk in engine.generate(request) for token in chunk.token_ids])

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(ask(number))
        await asyncio.sleep(0.1)
        replicas.running = 2
    assert outputs == [([7, 8, 9] * 7)[:20]] * 12
    assert replicas.new.requests
    await engine.close()
