"""Drafts in the scheduler: what they may take, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwire.engine.cache import KVCacheManager
from qwire.engine.chunk import FinishReason
from qwire.engine.errors import GenerationCancelled, NumericalError
from qwire.engine.request import StopParams
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan

MakeSequence = Callable[..., Sequence]
LONG = StopParams(max_output_tokens=20)


class Subject:
    """A scheduler over pages of 4 tokens, with what a step computes made up."""

    def __init__(self, pages: int = 100, *, max_step_tokens: int = 8) -> None:
        self.cache = KVCacheManager(pages, 4, prefix_reuse=False)
        self.scheduler = Scheduler(self.cache, max_running=4, max_step_tokens=max_step_tokens)

    def begin(self, *sequences: Sequence) -> None:
        """Add sequences and compute their prompts, whose next token is 5."""
        for sequence in sequences:
            self.scheduler.add(sequence)
        while any(sequence.pending_tokens > 1 for sequence in sequences):
            plan = self.scheduler.schedule(0)
            self.scheduler.update(plan, [5] * len(plan.sampled), 0)

    def plan(self, drafts: dict[Sequence, tuple[int, ...]]) -> StepPlan:
        """Plan a step and add drafts where there is room."""
        plan = self.scheduler.schedule(0)
        rooms = plan.draftable
        return self.scheduler.extend(
            plan, {sequence: draft[: rooms[sequence]] for sequence, draft in drafts.items() if sequence in rooms}
        )

    def draw(self, plan: StepPlan, *token_ids: int | None) -> None:
        """Book round after round of one sequence's tokens; there must be as many rounds as tokens."""
        for token_id in token_ids:
            assert len(plan.scheduled) == 1
            plan = self.scheduler.update(plan, [token_id], 0)
        assert plan.scheduled == ()


def test_a_draft_gives_its_tokens_as_far_as_they_are_drawn_and_one_more(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(3, LONG)
    subject.begin(sequence)
    plan = subject.plan({sequence: (6, 7, 8)})
    assert [(tokens.start, tokens.length, tokens.draft) for tokens in plan.scheduled] == [(3, 1, (6, 7, 8))]
    assert len(plan.scheduled[0].pages) == 2
    subject.draw(plan, 6, 7, 9)
    assert sequence.output_token_ids == [5, 6, 7, 9]
    assert (sequence.computed_tokens, sequence.pending_tokens) == (6, 1)
    subject.draw(subject.plan({sequence: (1, 2)}), 1, 2, 3)
    assert sequence.output_token_ids == [5, 6, 7, 9, 1, 2, 3]
    assert (sequence.drafted_tokens, sequence.accepted_tokens) == (5, 4)
    assert (subject.scheduler.drafted_tokens, subject.scheduler.accepted_tokens) == (5, 4)


def test_a_wrong_draft_costs_nothing_but_its_computation(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(3, LONG)
    subject.begin(sequence)
    subject.draw(subject.plan({sequence: (6, 7, 8, 9, 10)}), 4)
    assert sequence.output_token_ids == [5, 4]
    assert sequence.computed_tokens == 4
    assert subject.cache.used_tokens == 4, "pages of rejected tokens are given back"
    subject.cache.check_integrity()


@pytest.mark.parametrize(
    ("token_id", "reason"), [(0, FinishReason.END_OF_TURN), (99, FinishReason.STOP_TOKEN)], ids=["eos", "stop"]
)
def test_the_end_in_the_middle_of_a_draft_is_the_end(
    make_sequence: MakeSequence, token_id: int, reason: FinishReason
) -> None:
    subject = Subject()
    sequence = make_sequence(3, StopParams(20, stop_token_ids=frozenset({99})))
    subject.begin(sequence)
    subject.draw(subject.plan({sequence: (6, token_id, 8)}), 6, token_id)
    assert sequence.output_token_ids == [5, 6, token_id]
    assert sequence.finish is not None
    assert (sequence.finish.reason, sequence.finish.stop_token_id) == (reason, token_id)
    assert (sequence.finish.drafted_tokens, sequence.finish.accepted_tokens) == (3, 2)
    assert subject.cache.used_tokens == 0


def test_a_draft_leaves_room_for_the_token_that_follows_it(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(3, StopParams(max_output_tokens=4))
    subject.begin(sequence)
    plan = subject.plan({sequence: (6, 7, 8, 9)})
    assert plan.scheduled[0].draft == (6, 7)
    subject.draw(plan, 6, 7, 8)
    assert sequence.finish is not None
    assert (sequence.output_token_ids, sequence.finish.reason) == ([5, 6, 7, 8], FinishReason.LENGTH)


def test_the_last_token_has_no_draft(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(3, StopParams(max_output_tokens=2))
    subject.begin(sequence)
    assert subject.scheduler.schedule(0).draftable == {}


def test_prompts_go_before_drafts_and_the_first_before_the_last(make_sequence: MakeSequence) -> None:
    subject = Subject(max_step_tokens=8)
    first, second = (make_sequence(3, LONG) for _ in range(2))
    subject.begin(first, second)
    prompt = make_sequence(9, LONG)
    subject.scheduler.add(prompt)
    plan = subject.scheduler.schedule(0)
    assert (plan.spare_tokens, plan.draftable) == (0, {})
    subject.scheduler.update(plan, [5, 5], 0)
    plan = subject.plan({first: (6, 7, 8), second: (6, 7, 8)})
    assert [(tokens.length, tokens.draft) for tokens in plan.scheduled] == [(1, (6, 7, 8)), (1, ()), (3, ())]


def test_drafts_take_free_pages_only(make_sequence: MakeSequence) -> None:
    subject = Subject(pages=4, max_step_tokens=16)
    first, second = make_sequence(3, StopParams(13)), make_sequence(3, StopParams(5))
    subject.begin(first, second)
    plan = subject.plan({first: tuple(range(6, 20)), second: (6, 7)})
    # Both have a page, whose last place is the next token's. Two pages are left: the first one gets them.
    assert [tokens.draft for tokens in plan.scheduled] == [tuple(range(6, 14)), ()]
    assert plan.preempted == ()
    rest = subject.scheduler.update(plan, [1, 1], 0)
    assert rest.scheduled == ()
    assert subject.cache.used_tokens == 8
    assert (first.preemptions, second.preemptions) == (0, 0)


def test_what_was_aborted_while_the_draft_was_made_or_drawn_gets_nothing_more(make_sequence: MakeSequence) -> None:
    subject = Subject()
    first, second = (make_sequence(3, LONG) for _ in range(2))
    subject.begin(first, second)
    plan = subject.scheduler.schedule(0)
    subject.scheduler.abort(first.request_id, GenerationCancelled())
    plan = subject.scheduler.extend(plan, {first: (6,), second: (6, 7)})
    assert [(tokens.sequence, tokens.draft) for tokens in plan.scheduled] == [(second, (6, 7))]
    rest = subject.scheduler.update(plan, [6], 0)
    assert [tokens.sequence for tokens in rest.scheduled] == [second]
    subject.scheduler.abort(second.request_id, GenerationCancelled())
    assert subject.scheduler.update(rest, [7], 0).scheduled == ()
    assert (first.output_token_ids, second.output_token_ids) == ([5], [5, 6])
    assert subject.cache.used_tokens == 0
    subject.cache.check_integrity()


def test_a_draft_on_the_pages_of_one_that_was_aborted_meanwhile_has_them_alone(make_sequence: MakeSequence) -> None:
    subject = Subject(pages=4, max_step_tokens=16)
    first, second = make_sequence(3, StopParams(13)), make_sequence(3, StopParams(5))
    subject.begin(first, second)
    plan = subject.scheduler.schedule(0)
    (taken,) = (tokens.pages for tokens in plan.scheduled if tokens.sequence is second)
    subject.scheduler.abort(second.request_id, GenerationCancelled())
    (left,) = subject.scheduler.extend(plan, {first: tuple(range(6, 18))}).scheduled
    assert set(taken) & set(left.pages), "else this shows nothing"
    assert left.sequence is first


def test_where_all_were_aborted_the_step_is_what_it_was(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(3, LONG)
    subject.begin(sequence)
    plan = subject.scheduler.schedule(0)
    subject.scheduler.abort(sequence.request_id, GenerationCancelled())
    assert subject.scheduler.extend(plan, {sequence: (6, 7)}) == plan


def test_what_was_drafted_for_a_step_that_is_given_up_does_not_count(make_sequence: MakeSequence) -> None:
    subject = Subject()
    first, second = (make_sequence(3, LONG) for _ in range(2))
    subject.begin(first, second)
    plan = subject.plan({first: (6, 7), second: (6,)})
    subject.scheduler.abort(second.request_id, GenerationCancelled())
    subject.scheduler.abandon(plan)
    assert (subject.scheduler.drafted_tokens, first.drafted_tokens) == (0, 0)


def test_no_token_behind_a_draft_is_a_failure(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(3, LONG)
    subject.begin(sequence)
    subject.draw(subject.plan({sequence: (6, 7)}), 6, None)
    assert isinstance(sequence.failure, NumericalError)
    assert sequence.output_token_ids == [5, 6]
    assert subject.cache.used_tokens == 0


def test_the_first_step_of_a_short_prompt_can_be_given_up(make_sequence: MakeSequence) -> None:
    subject, sequence = Subject(), make_sequence(1, LONG)
    subject.scheduler.add(sequence)
    subject.scheduler.abandon(subject.plan({sequence: (5, 6, 7, 8, 9)}))
    assert subject.cache.used_tokens == 4, "the pages of the draft are given back, and no other one"
    subject.draw(subject.plan({sequence: (5, 6)}), 5, 6, 7)
    assert sequence.output_token_ids == [5, 6, 7]
