"""How long a lost generation looks for another replica."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, ReplicasLost
from qwire.serve.patience import Patience

LOST = EngineUnavailable(2.0)


async def test_without_a_timeout_what_was_lost_is_told_at_once():
    with pytest.raises(EngineUnavailable) as caught:
        await Patience(0.0, 9, 9, None).wait(LOST, "a")
    assert caught.value is LOST


async def test_attempts_are_spaced_and_end_with_the_timeout():
    patience, waits = Patience(0.8, 9, 9, None), list[float]()

    async def go_on() -> None:
        while True:
            before = time.monotonic()
            await patience.wait(LOST, "a")
            waits.append(time.monotonic() - before)

    with pytest.raises(EngineUnavailable):
        await go_on()
    assert 1 <= len(waits) <= 4
    assert all(wait > 0.09 * 2**attempt for attempt, wait in enumerate(waits))


async def test_attempts_without_progress_are_counted():
    patience = Patience(60.0, 2, 9, None)
    for _ in range(2):
        for _ in range(2):
            await patience.wait(LOST, "a")
        with pytest.raises(EngineUnavailable) as caught:
            await patience.wait(LOST, "a")
        assert caught.value is LOST
        patience.renew()


async def test_replicas_that_are_lost_are_counted_whatever_the_progress():
    patience = Patience(60.0, 9, 2, None)
    for replica in ("a", "", "b", "b"):  # an attempt that no replica took loses none
        await patience.wait(LOST, replica)
        patience.renew()
    assert patience.lost_replicas == {"a", "b"}
    with pytest.raises(ReplicasLost):
        await patience.wait(LOST, "c")


async def test_a_replica_that_takes_the_call_ends_the_search():
    patience = Patience(0.25, 2, 9, None)
    for _ in range(2):
        await patience.wait(LOST, "a")
        patience.found()
        assert patience.left_s == math.inf
        await asyncio.sleep(0.3)  # in its queue
    with pytest.raises(EngineUnavailable):  # but attempts are counted until there is a token
        await patience.wait(LOST, "a")


async def test_progress_renews_it():
    patience = Patience(0.25, 9, 9, None)
    assert patience.left_s == math.inf
    for _ in range(4):
        await patience.wait(LOST, "a")
        assert patience.left_s < 0.25
        patience.renew()
        assert patience.left_s == math.inf


async def test_it_never_waits_beyond_the_deadline():
    patience = Patience(60.0, 9, 9, time.time_ns() + 50_000_000)
    with pytest.raises(DeadlineExceeded):
        await patience.wait(LOST, "a")
