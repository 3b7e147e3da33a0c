"""Who is let into the queue, and what those are told who are not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from qwire.engine.admission import Admission
from qwire.engine.cache import KVCacheManager
from qwire.engine.config import EngineConfig
from qwire.engine.errors import DeadlineExceeded, DeadlineUnattainable, QueueFull
from qwire.engine.pace import Pace
from qwire.engine.request import StopParams
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.throughput import DecodeRate

MakeSequence = Callable[..., Sequence]
MAX_RUNNING = 2


class Desk:
    """An admission with all that it looks at."""

    def __init__(self, max_waiting: int = 8, pages: int = 1000) -> None:
        config = EngineConfig(max_running=MAX_RUNNING, max_waiting=max_waiting, max_step_tokens=8)
        self.scheduler = Scheduler(KVCacheManager(pages, 4), max_running=MAX_RUNNING, max_step_tokens=8)
        self.pace, self.decode = Pace(config.max_step_tokens), DecodeRate()
        self.admission = Admission(self.scheduler, self.pace, self.decode, config)

    def let_in(self, sequence: Sequence) -> None:
        self.admission.check(sequence)
        self.scheduler.add(sequence)

    def fill(self, sequences: list[Sequence]) -> int:
        """Let in as many as there is room for, and return how many of them wait."""
        before = len(self.scheduler.waiting)
        for sequence in sequences:
            try:
                self.let_in(sequence)
            except QueueFull:
                break
        return len(self.scheduler.waiting) - before

    def measure(self, *, place_s: float = 0.0, tokens_per_s: float = 0.0) -> None:
        """Pretend that this is what the last steps told."""
        now_s = time.monotonic()
        for _ in range(10):
            if place_s:
                self.pace.record(now_s, place_s, tokens=1, running=1, departures=1)
            if tokens_per_s:
                self.pace.record(now_s, 8 / tokens_per_s, tokens=8, running=0, departures=0)


@pytest.fixture
def busy(make_sequence: MakeSequence) -> Desk:
    """All places to run are taken, by prompts of which the others know nothing."""
    desk = Desk()
    desk.fill([make_sequence() for _ in range(MAX_RUNNING)])
    return desk


def in_s(seconds: float) -> int:
    return time.time_ns() + int(seconds * 1e9)


def test_one_tenant_alone_has_the_whole_queue(busy: Desk, make_sequence: MakeSequence) -> None:
    assert busy.fill([make_sequence(tenant="a") for _ in range(20)]) == 8


def test_low_priority_has_half_of_the_queue(busy: Desk, make_sequence: MakeSequence) -> None:
    assert busy.fill([make_sequence(priority=-1) for _ in range(20)]) == 4
    assert busy.fill([make_sequence() for _ in range(20)]) == 4


def test_high_priority_finds_room_in_a_full_queue(make_sequence: MakeSequence) -> None:
    busy = Desk()
    busy.fill([make_sequence(priority=1) for _ in range(MAX_RUNNING)])  # who would not give way
    assert busy.fill([make_sequence() for _ in range(20)]) == 8
    assert busy.fill([make_sequence(priority=1) for _ in range(20)]) == 1
    assert busy.fill([make_sequence(tenant="b") for _ in range(20)]) == 1


@pytest.mark.parametrize("priority", [0, 1])
def test_a_flood_keeps_no_other_tenant_out(busy: Desk, make_sequence: MakeSequence, priority: int) -> None:
    busy.fill([make_sequence(tenant="a", priority=priority) for _ in range(40)])
    assert busy.fill([make_sequence(tenant="b")]) == 1
    with pytest.raises(QueueFull):
        busy.let_in(make_sequence(tenant="a", priority=priority))


def test_two_tenants_end_with_half_of_the_queue_each(busy: Desk, make_sequence: MakeSequence) -> None:
    busy.fill([make_sequence(tenant="a") for _ in range(20)])
    for _ in range(20):
        busy.fill([make_sequence(tenant="b")])
        busy.fill([make_sequence(tenant="a")])
        first_a = next(sequence for sequence in busy.scheduler.waiting if sequence.tenant == "a")
        if sum(sequence.tenant == "b" for sequence in busy.scheduler.waiting) == 4:
            break
        busy.scheduler.abort(first_a.request_id, DeadlineExceeded())
    assert sum(sequence.tenant == "b" for sequence in busy.scheduler.waiting) == 4
    with pytest.raises(QueueFull):
        busy.let_in(make_sequence(tenant="b"))


def test_no_queue_is_no_queue(make_sequence: MakeSequence) -> None:
    desk = Desk(max_waiting=0)
    assert desk.fill([make_sequence() for _ in range(5)]) == 0
    assert len(desk.scheduler.running) == MAX_RUNNING
    with pytest.raises(QueueFull):
        desk.let_in(make_sequence(tenant="b"))


def test_places_of_low_ones_are_free_for_others(make_sequence: MakeSequence) -> None:
    desk = Desk(max_waiting=0)
    desk.measure(place_s=1000.0)
    desk.fill([make_sequence(priority=-1) for _ in range(MAX_RUNNING)])
    for _ in range(MAX_RUNNING):
        desk.let_in(make_sequence(deadline_unix_ns=in_s(60)))
    with pytest.raises(QueueFull):
        desk.let_in(make_sequence())


def test_what_goes_on_is_never_refused(busy: Desk, make_sequence: MakeSequence) -> None:
    busy.measure(place_s=1000.0, tokens_per_s=0.001)
    busy.fill([make_sequence() for _ in range(20)])
    busy.let_in(make_sequence(admitted=True, deadline_unix_ns=in_s(5)))


def test_the_refused_are_told_to_come_one_after_the_other(busy: Desk, make_sequence: MakeSequence) -> None:
    busy.fill([make_sequence() for _ in range(20)])
    busy.measure(place_s=6.0)  # of two places one becomes free every three seconds
    told = []
    for _ in range(15):
        with pytest.raises(QueueFull) as caught:
            busy.let_in(make_sequence())
        told.append(caught.value.retry_after_s)
    assert told[:3] == pytest.approx([3.0, 6.0, 9.0], abs=0.5)
    # But not later than all that is here now would take.
    assert max(told) <= 3.0 * 10 + 0.5


def test_a_running_one_near_its_limit_leaves_sooner_than_the_mean(busy: Desk, make_sequence: MakeSequence) -> None:
    busy.fill([make_sequence() for _ in range(20)])
    busy.measure(place_s=600.0)
    busy.decode.record(time.monotonic(), 0.25, 2, 2)  # four tokens a second, and four are left
    with pytest.raises(QueueFull) as caught:
        busy.let_in(make_sequence())
    assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.2)


def test_a_deadline_that_has_passed_is_refused_even_where_there_is_room(make_sequence: MakeSequence) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        Desk().let_in(make_sequence(deadline_unix_ns=in_s(-1)))
    assert not isinstance(caught.value, DeadlineUnattainable)


def test_without_measurements_every_deadline_may_be_met(busy: Desk, make_sequence: MakeSequence) -> None:
    for _ in range(8):
        busy.let_in(make_sequence(500, deadline_unix_ns=in_s(5)))


def test_a_prompt_that_takes_longer_than_the_deadline_is_refused_at_once(make_sequence: MakeSequence) -> None:
    desk = Desk()
    desk.measure(tokens_per_s=100)
    desk.let_in(make_sequence(400, deadline_unix_ns=in_s(10)))
    with pytest.raises(DeadlineUnattainable) as caught:
        desk.let_in(make_sequence(2000, deadline_unix_ns=in_s(10)))
    assert caught.value.estimate_s == pytest.approx(20)
    assert caught.value.left_s == pytest.approx(10, abs=0.5)
    assert caught.value.retry_after_s is None, "another try takes as long"
    desk.let_in(make_sequence(2000))


def test_what_the_cache_knows_takes_no_time(make_sequence: MakeSequence) -> None:
    desk = Desk()
    first = make_sequence(2000, StopParams(max_output_tokens=1))
    desk.let_in(first)
    while not first.ended:
        plan = desk.scheduler.schedule(1)
        desk.scheduler.update(plan, [5] * len(plan.sampled), 1)
    desk.measure(tokens_per_s=100)
    desk.let_in(make_sequence(2000, deadline_unix_ns=in_s(10)))


def test_a_place_that_comes_too_late_is_refused_and_a_little_wait_is_not(
    busy: Desk, make_sequence: MakeSequence
) -> None:
    busy.measure(place_s=20.0)  # a departure every ten seconds
    for _ in range(4):  # one of the next four may leave at any time
        busy.let_in(make_sequence(deadline_unix_ns=in_s(1)))
    with pytest.raises(DeadlineUnattainable) as caught:
        busy.let_in(make_sequence(deadline_unix_ns=in_s(1)))
    expected = (5 - 2 * math.sqrt(5)) * 10
    assert caught.value.estimate_s == pytest.approx(expected, abs=0.1)
    assert caught.value.retry_after_s == pytest.approx(expected - 1, abs=0.5)
    busy.let_in(make_sequence(deadline_unix_ns=in_s(8)))
    busy.let_in(make_sequence(priority=1, deadline_unix_ns=in_s(1)))  # nobody goes before it


def test_what_waits_is_given_up_when_its_prompt_no_longer_fits(busy: Desk, make_sequence: MakeSequence) -> None:
    hopeless, hopeful = make_sequence(2000, deadline_unix_ns=in_s(10)), make_sequence(5, deadline_unix_ns=in_s(10))
    busy.let_in(hopeless)
    busy.let_in(hopeful)
    assert busy.admission.give_up() == []
    busy.measure(tokens_per_s=100)
    assert busy.admission.give_up() == [hopeless]
    assert isinstance(hopeless.failure, DeadlineUnattainable)
    assert busy.scheduler.waiting == (hopeful,)
