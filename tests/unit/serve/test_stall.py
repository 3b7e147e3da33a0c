"""An engine with work that takes no step is stuck; one without work, or that goes on, is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import EngineStats
from qwire.serve import stall
from qwire.serve.stall import StallWatch


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stall, "time", clock)
    return clock


@pytest.fixture
async def idle() -> EngineStats:
    return await FakeEngine().stats()


def test_an_engine_is_stuck_where_it_has_work_and_takes_no_step(clock: Clock, idle: EngineStats) -> None:
    watch, busy = StallWatch(120.0), replace(idle, running=1)
    for steps in range(50):  # in all for longer than it may stand still
        clock.now_s += 5.0
        watch.check(replace(busy, steps=steps))
    clock.now_s += 119.0
    watch.check(replace(busy, steps=49))
    clock.now_s += 2.0
    with pytest.raises(RuntimeError, match="no step for 121 s"):
        watch.check(replace(busy, steps=49))
    with pytest.raises(RuntimeError, match="no step"):
        watch.check(replace(idle, waiting=1, steps=49))
    watch.check(replace(busy, steps=50))


def test_an_engine_without_work_is_never_stuck(clock: Clock, idle: EngineStats) -> None:
    watch = StallWatch(120.0)
    for _ in range(100):
        watch.check(idle)
        clock.now_s += 5.0
    watch.check(replace(idle, running=1))  # its work came just now
