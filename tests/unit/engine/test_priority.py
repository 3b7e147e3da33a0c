"""What a higher priority takes from lower ones: places, steps, cache; and that these end all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwire.engine.cache import KVCacheManager
from qwire.engine.request import StopParams
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan

MakeSequence = Callable[..., Sequence]
LONG = StopParams(max_output_tokens=30)
LOW, NORMAL, HIGH = -1, 0, 1


class Subject:
    """A scheduler that steps through time, a nanosecond a step."""

    def __init__(
        self, *, max_running: int = 2, max_step_tokens: int = 8, pages: int = 100, aging_s: float = 30.0
    ) -> None:
        self.cache = KVCacheManager(pages, 4, prefix_reuse=False)
        self.scheduler = Scheduler(
            self.cache, max_running=max_running, max_step_tokens=max_step_tokens, aging_s=aging_s
        )
        self.now = 100

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            sequence.served_unix_ns = sequence.queued_unix_ns = self.now
            self.scheduler.add(sequence)

    def step(self) -> dict[Sequence, int]:
        """Compute a step, and return who got how many tokens."""
        self.now += 1
        self.scheduler.expire(self.now)
        plan = self.scheduler.schedule(self.now)
        self.scheduler.update(plan, [5] * len(plan.sampled), self.now)
        self.cache.check_integrity()
        return {tokens.sequence: tokens.length for tokens in plan.scheduled}


def test_the_youngest_low_one_gives_its_place_to_a_higher_priority_and_goes_on_later(
    make_sequence: MakeSequence,
) -> None:
    subject = Subject()
    old, young = make_sequence(3, LONG, priority=LOW), make_sequence(3, LONG, priority=LOW)
    subject.add(old, young)
    for _ in range(5):
        subject.step()
    written = list(young.output_token_ids)
    caller = make_sequence(3, StopParams(max_output_tokens=4))
    subject.add(caller)
    assert caller in subject.step(), "it begins with the next step"
    assert (subject.scheduler.waiting, young.preemptions, old.preemptions) == ((young,), 1, 0)
    while not young.ended:
        subject.step()
    assert caller.ended
    assert young.output_token_ids[: len(written)] == written
    assert len(young.output_token_ids) == 30


@pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH])
def test_equals_do_not_give_way(make_sequence: MakeSequence, priority: int) -> None:
    subject = Subject()
    running = [make_sequence(3, LONG, priority=priority) for _ in range(2)]
    subject.add(*running)
    subject.step()
    subject.add(make_sequence(3, priority=priority), make_sequence(3, priority=LOW))
    subject.step()
    assert list(subject.scheduler.running) == running


def test_the_lowest_gives_way_first(make_sequence: MakeSequence) -> None:
    subject = Subject()
    low, normal = make_sequence(3, LONG, priority=LOW), make_sequence(3, LONG)
    subject.add(low, normal)
    subject.step()
    first, second = make_sequence(3, LONG, priority=HIGH), make_sequence(3, LONG, priority=HIGH)
    subject.add(first)
    subject.step()
    assert set(subject.scheduler.running) == {first, normal}
    subject.add(second)
    subject.step()
    assert set(subject.scheduler.running) == {first, second}


def test_a_health_check_takes_the_place_of_low_ones_only(make_sequence: MakeSequence) -> None:
    subject = Subject(max_running=1)
    low, normal = make_sequence(3, LONG, priority=LOW), make_sequence(3, LONG)
    subject.add(low)
    subject.step()
    subject.add(probe := make_sequence(1, StopParams(max_output_tokens=1), priority=HIGH, is_probe=True))
    subject.step()
    assert probe.ended
    subject.add(normal)
    subject.step()
    subject.add(make_sequence(1, StopParams(max_output_tokens=1), priority=HIGH, is_probe=True))
    subject.step()
    assert subject.scheduler.running == (normal,)


def test_cache_is_given_up_as_well(make_sequence: MakeSequence) -> None:
    subject = Subject(pages=10)
    low, caller = make_sequence(20, StopParams(max_output_tokens=15), priority=LOW), make_sequence(24)
    subject.add(low)
    for _ in range(5):
        subject.step()
    subject.add(caller)
    assert caller in subject.step()
    while not low.ended:
        subject.step()
    assert caller.ended


def test_low_ones_stand_still_while_a_prompt_of_others_is_computed(make_sequence: MakeSequence) -> None:
    subject = Subject(max_running=3)
    low = make_sequence(3, LONG, priority=LOW)
    subject.add(low)
    subject.step()
    caller = make_sequence(20, LONG)
    subject.add(caller)
    computed = low.computed_tokens
    assert [subject.step() for _ in range(3)] == [{caller: 8}, {caller: 8}, {caller: 4}]
    assert low in subject.scheduler.running
    assert (low.computed_tokens, low.preemptions) == (computed, 0), "it keeps what it has"
    assert subject.step() == {caller: 1, low: 1}


def test_beside_others_low_prompts_are_computed_in_small_pieces_and_alone_in_large_ones(
    make_sequence: MakeSequence,
) -> None:
    subject = Subject(max_running=3)
    caller, low = make_sequence(1, StopParams(max_output_tokens=2)), make_sequence(30, LONG, priority=LOW)
    subject.add(caller, low)
    assert [subject.step() for _ in range(3)] == [{caller: 1, low: 3}, {caller: 1, low: 3}, {low: 8}]


def test_guesses_beside_low_ones_keep_to_what_is_left_for_these(make_sequence: MakeSequence) -> None:
    subject = Subject(max_running=3)
    caller, low = make_sequence(1, LONG), make_sequence(1, LONG, priority=LOW)
    subject.add(caller, low)
    assert subject.scheduler.schedule(0).spare_tokens == 2
    subject = Subject(max_running=3)
    subject.add(make_sequence(1, LONG))
    assert subject.scheduler.schedule(0).spare_tokens == 7


def test_a_step_with_low_ones_is_outranked_by_a_prompt_that_can_begin(make_sequence: MakeSequence) -> None:
    subject = Subject(max_running=2)

    def outranked(plan: StepPlan, sequence: Sequence) -> bool:
        subject.add(sequence)
        return subject.scheduler.outranks(sequence, plan)

    subject.add(make_sequence(3, LONG, priority=LOW))
    low_plan = subject.scheduler.schedule(0)
    assert not outranked(low_plan, make_sequence(3, priority=LOW))
    assert outranked(low_plan, make_sequence(3, LONG)), "it takes a place of another"
    assert not outranked(low_plan, make_sequence(1)), "it does without the step"
    subject.scheduler.abandon(low_plan)
    plan = subject.scheduler.schedule(0)
    assert not outranked(plan, make_sequence(3)), "no low one is in it"


def test_one_that_would_not_begin_outranks_nothing(make_sequence: MakeSequence) -> None:
    """The first in the queue is a low one that has risen, for which nobody gives way."""
    subject = Subject(aging_s=5e-9)
    risen, caller = make_sequence(3, LONG, priority=LOW), make_sequence(3, StopParams(100))
    subject.add(caller, make_sequence(3, StopParams(100), priority=LOW), risen)
    while risen.level == LOW:
        subject.step()
    plan = subject.scheduler.schedule(subject.now)
    late = make_sequence(3)
    subject.add(late)
    assert not subject.scheduler.outranks(late, plan)
    subject.scheduler.abandon(plan)
    assert late not in subject.step()


def test_whatever_arrives_a_low_one_ends(make_sequence: MakeSequence) -> None:
    """Callers want every place of every step, for ever."""
    subject = Subject(max_running=2, aging_s=50e-9)
    low = make_sequence(6, StopParams(max_output_tokens=20), priority=LOW)
    subject.add(low)
    steps = 0
    while not low.ended:
        while len(subject.scheduler.waiting) < 4:
            subject.add(make_sequence(12, StopParams(max_output_tokens=3)))
        subject.step()
        steps += 1
        assert steps < 1000
    assert 0 < low.preemptions < 20, "it got on between two"


def test_low_ones_that_stand_still_for_long_go_on(make_sequence: MakeSequence) -> None:
    """There is always a prompt of others to compute, and always a place."""
    subject = Subject(max_running=4, aging_s=50e-9)
    low = make_sequence(6, StopParams(max_output_tokens=20), priority=LOW)
    subject.add(low)
    steps = 0
    while not low.ended:
        if len(subject.scheduler.running) < 3:
            subject.add(make_sequence(30, StopParams(max_output_tokens=1)))
        subject.step()
        steps += 1
        assert steps < 300
    assert low.preemptions == 0
    assert steps >= 50, "it stood still until it was raised"


def test_each_preemption_lets_a_token_through(make_sequence: MakeSequence) -> None:
    """A high one comes whenever the low one has its place again."""
    subject = Subject(max_running=1)
    low = make_sequence(9, StopParams(max_output_tokens=5), priority=LOW)
    subject.add(low)
    while not low.ended:
        subject.step()
        if low in subject.scheduler.running:
            subject.add(make_sequence(9, StopParams(max_output_tokens=2), priority=HIGH))
        assert subject.now < 300
    assert low.preemptions <= 5


def test_who_waits_for_its_own_kind_does_not_rise(make_sequence: MakeSequence) -> None:
    subject = Subject(max_running=1, aging_s=5e-9)
    subject.add(*(make_sequence(3, StopParams(max_output_tokens=10), priority=LOW) for _ in range(6)))
    for _ in range(40):
        subject.step()
    assert {sequence.level for sequence in (*subject.scheduler.waiting, *subject.scheduler.running)} == {LOW}
    caller = make_sequence(3)
    subject.add(caller)
    assert caller in subject.step()


def test_what_has_risen_keeps_its_place_and_takes_none(make_sequence: MakeSequence) -> None:
    subject = Subject(max_running=1, aging_s=5e-9)
    caller, low = make_sequence(3, StopParams(max_output_tokens=12)), make_sequence(3, LONG, priority=LOW)
    fellow = make_sequence(3, LONG, priority=LOW)
    subject.add(caller, low)
    while not caller.ended:
        subject.step()
    assert low.level > LOW
    assert subject.scheduler.running == (low,)
    subject.add(fellow, make_sequence(3))
    subject.step()
    assert subject.scheduler.running == (low,)
