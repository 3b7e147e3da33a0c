from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from qwire.engine.cache import KVCacheManager
from qwire.engine.errors import DeadlineExceeded, EngineError, GenerationCancelled, InvalidRequest, NumericalError
from qwire.engine.request import StopParams
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan

MakeSequence = Callable[..., Sequence]


def scheduler(pages: int = 100, *, max_running: int = 4, max_step_tokens: int = 8, reuse: bool = False) -> Scheduler:
    """Make a scheduler over pages of 4 tokens; without reuse, as all prompts here begin alike."""
    cache = KVCacheManager(pages, 4, prefix_reuse=reuse)
    return Scheduler(cache, max_running=max_running, max_step_tokens=max_step_tokens)


def shape(plan: StepPlan) -> list[tuple[str, int, int, bool]]:
    return [(tokens.sequence.request_id, tokens.start, tokens.length, tokens.samples) for tokens in plan.scheduled]


def step(subject: Scheduler, token_id: int | None = 5, now: int = 100) -> StepPlan:
    plan = subject.schedule(now)
    subject.update(plan, [token_id] * len(plan.sampled), now)
    return plan


def test_a_long_prompt_is_computed_in_chunks_beside_decoding(make_sequence: MakeSequence) -> None:
    subject = scheduler()
    subject.add(make_sequence(2))
    assert shape(step(subject)) == [("request-0", 0, 2, True)]
    subject.add(make_sequence(12))
    assert shape(step(subject)) == [("request-0", 2, 1, True), ("request-1", 0, 7, False)]
    assert shape(step(subject)) == [("request-0", 3, 1, True), ("request-1", 7, 5, True)]


def test_prompts_of_several_sequences_share_a_step(make_sequence: MakeSequence) -> None:
    subject = scheduler()
    for _ in range(3):
        subject.add(make_sequence(3))
    assert shape(step(subject)) == [
        ("request-0", 0, 3, True),
        ("request-1", 0, 3, True),
        ("request-2", 0, 2, False),
    ]
    assert shape(subject.schedule(0)) == [
        ("request-0", 3, 1, True),
        ("request-1", 3, 1, True),
        ("request-2", 2, 1, True),
    ]


def test_priority_goes_before_arrival(make_sequence: MakeSequence) -> None:
    subject = scheduler(max_running=1)
    for priority in (0, -1, 0, 1):
        subject.add(make_sequence(1, StopParams(max_output_tokens=1), priority=priority))
    order = [shape(step(subject))[0][0] for _ in range(4)]
    assert order == ["request-3", "request-0", "request-2", "request-1"]


def test_waiting_raises_the_priority_so_that_low_ones_are_not_put_off_for_ever(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(100, 4, prefix_reuse=False)
    subject = Scheduler(cache, max_running=1, max_step_tokens=8, aging_s=30e-9)
    one_token = StopParams(max_output_tokens=1)
    subject.add(make_sequence(1, one_token))
    low = make_sequence(1, one_token, priority=-1)  # arrived at 11 ns
    subject.add(low)
    now = 0
    for now in range(20, 200, 10):
        subject.expire(now)
        if low in subject.running:
            break
        subject.add(make_sequence(1, one_token, priority=1))  # high ones keep coming
        subject.add(make_sequence(1, one_token))
        step(subject, now=now)
    assert low in subject.running
    # Normal after 30 ns, high after 60, and as the oldest of the high ones next.
    assert 71 <= now <= 80


def test_what_was_admitted_before_goes_before_what_has_not_begun(make_sequence: MakeSequence) -> None:
    subject = scheduler(max_running=1)
    for admitted, output in ((False, ()), (False, ()), (True, ()), (True, (5,))):
        subject.add(make_sequence(1, StopParams(max_output_tokens=2), admitted=admitted, output_token_ids=output))
    # One that was admitted elsewhere, and that nothing was computed of, has no more right to a place than others.
    assert [sequence.request_id for sequence in subject.waiting] == ["request-3", "request-1", "request-2"]


def test_a_large_request_is_not_overtaken_while_it_waits_for_memory(make_sequence: MakeSequence) -> None:
    subject = scheduler(pages=5)
    subject.add(make_sequence(8, StopParams(max_output_tokens=2)))
    subject.add(make_sequence(12, StopParams(max_output_tokens=8)))
    subject.add(make_sequence(1, StopParams(max_output_tokens=1)))
    assert [sequence.request_id for sequence in subject.waiting] == ["request-1", "request-2"]
    step(subject)
    step(subject)
    assert [sequence.request_id for sequence in subject.running] == ["request-1"]


def test_the_last_one_gives_way_when_memory_runs_out_and_goes_on_later(make_sequence: MakeSequence) -> None:
    subject = scheduler(pages=5, max_step_tokens=16)
    first, second = (make_sequence(3, StopParams(max_output_tokens=12)) for _ in range(2))
    subject.add(first)
    subject.add(second)
    while second in subject.running:
        step(subject)
    assert (subject.running, subject.waiting) == ((first,), (second,))
    assert (second.preemptions, second.computed_tokens) == (1, 0)
    output = list(second.output_token_ids)
    assert output
    while not first.ended:
        step(subject)
    assert shape(step(subject)) == [("request-1", 0, 3 + len(output), True)]
    assert second.output_token_ids == [*output, 5]
    while not second.ended:
        step(subject)
    assert (first.preemptions, second.preemptions) == (0, 1)


def test_priority_goes_before_arrival_in_keeping_memory_too(make_sequence: MakeSequence) -> None:
    subject = scheduler(pages=5)
    low, high = (make_sequence(3, StopParams(max_output_tokens=12), priority=priority) for priority in (-1, 0))
    subject.add(low)
    subject.add(high)
    while not high.ended:
        step(subject)
    assert (low.preemptions, high.preemptions) == (1, 0)


def test_the_same_beginning_is_computed_once_even_by_requests_that_arrive_together(make_sequence: MakeSequence) -> None:
    subject = scheduler(reuse=True)
    first, second = make_sequence(11), make_sequence(14)
    subject.add(first)
    subject.add(second)
    assert shape(step(subject)) == [("request-0", 0, 8, False)]
    assert shape(step(subject)) == [("request-0", 8, 3, True), ("request-1", 8, 5, False)]
    assert (first.cached_prompt_tokens, second.cached_prompt_tokens) == (0, 8)
    third = make_sequence(12)
    subject.add(third)
    assert shape(step(subject)) == [
        ("request-0", 11, 1, True),
        ("request-1", 13, 1, True),
        ("request-2", 8, 4, True),
    ]


def test_what_a_preempted_sequence_finds_again_is_no_prompt_reuse(make_sequence: MakeSequence) -> None:
    subject = scheduler(pages=5, reuse=True)
    first = make_sequence(3, StopParams(max_output_tokens=12))
    second = make_sequence(7, StopParams(max_output_tokens=12))
    subject.add(first)
    subject.add(second)
    while not second.ended:
        step(subject)
    assert second.preemptions > 0
    assert second.finish is not None
    assert second.finish.cached_prompt_tokens == 0


def test_a_finished_sequence_makes_room_in_the_same_step(make_sequence: MakeSequence) -> None:
    subject = scheduler(max_running=1)
    first, second = make_sequence(2), make_sequence(2)
    subject.add(first)
    subject.add(second)
    step(subject, token_id=0)
    assert first.finish is not None
    assert subject.running == (second,)


def test_abort_frees_a_waiting_and_a_running_sequence(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(100, 4)
    subject = Scheduler(cache, max_running=1, max_step_tokens=8)
    running, waiting = make_sequence(), make_sequence()
    subject.add(running)
    subject.add(waiting)
    plan = subject.schedule(0)
    assert subject.abort(waiting.request_id, GenerationCancelled()) is waiting
    assert subject.abort(running.request_id, GenerationCancelled()) is running
    assert cache.used_tokens == 0
    subject.update(plan, [5], 1)  # the step was under way when it was aborted
    assert running.output_token_ids == []
    assert subject.abort(running.request_id, GenerationCancelled()) is None
    assert not subject.schedule(0).scheduled


def test_deadlines_end_waiting_and_running_sequences(make_sequence: MakeSequence) -> None:
    subject = scheduler(max_running=1)
    running, waiting, timeless = (make_sequence(deadline_unix_ns=deadline) for deadline in (50, 40, None))
    for sequence in (running, waiting, timeless):
        subject.add(sequence)
    assert subject.expire(39) == []
    assert subject.expire(40) == [waiting]
    assert subject.expire(60) == [running]
    assert isinstance(running.failure, DeadlineExceeded)
    assert subject.running == (timeless,)


def test_logits_that_are_not_finite_end_their_own_sequence_only(make_sequence: MakeSequence) -> None:
    subject = scheduler()
    healthy, poisoned = make_sequence(2), make_sequence(2)
    subject.add(healthy)
    subject.add(poisoned)
    subject.update(subject.schedule(0), [5, None], 1)
    assert isinstance(poisoned.failure, NumericalError)
    assert subject.running == (healthy,)


def test_a_resumed_sequence_computes_its_output_like_a_prompt(make_sequence: MakeSequence) -> None:
    subject = scheduler()
    subject.add(make_sequence(2, output_token_ids=(7, 8)))
    assert shape(step(subject)) == [("request-0", 0, 4, True)]


@pytest.mark.parametrize(
    "module", ["admission", "scheduler", "cache", "pages", "sequence", "config", "checkpoint_config", "validation"]
)
def test_bookkeeping_needs_no_torch(module: str) -> None:
    code = f"import sys, qwire.engine.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("failure", "findable"), [(NumericalError(), 0), (InvalidRequest("constraint.regex", "It is too complex."), 8)]
)
def test_only_what_is_not_finite_is_lost_for_others(
    make_sequence: MakeSequence, failure: EngineError, findable: int
) -> None:
    subject = scheduler(reuse=True, max_step_tokens=16)
    failing = make_sequence(9)
    subject.add(failing)
    step(subject)
    subject.spoil(failing, failure)
    assert failing.failure is failure
    assert subject.reusable_tokens(make_sequence(9)) == findable
