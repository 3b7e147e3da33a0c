"""Random workloads against the scheduler, with what must hold after every action."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from qwire.engine.cache import KVCacheManager
from qwire.engine.errors import DeadlineExceeded, GenerationCancelled, NumericalError
from qwire.engine.priority import gives_way, holds_low_back
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import ScheduledTokens, StepPlan

CAPACITY_TOKENS, MAX_RUNNING, MAX_STEP_TOKENS = 60, 3, 7
EOS = 0
ANY_PAGE = (1, 2, 3, 4, 5)
"""Page sizes that divide the capacity."""


class SchedulerWorkload(RuleBasedStateMachine):
    """Plans, drafts, computes, adds, aborts and expires in any order."""

    sequences = Bundle[Sequence]("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.added: list[Sequence] = []
        self.planned: StepPlan | None = None  # and drafted for later
        self.plan: StepPlan | None = None  # computed, and booked later
        self.now = 0
        self.content: dict[int, tuple[int, ...]] = {}

    @initialize(page_tokens=st.sampled_from(ANY_PAGE), prefix_reuse=st.booleans())
    def start(self, page_tokens: int, prefix_reuse: bool) -> None:  # noqa: FBT001 - hypothesis names it
        self.cache = KVCacheManager(CAPACITY_TOKENS // page_tokens, page_tokens, prefix_reuse=prefix_reuse)
        self.scheduler = Scheduler(self.cache, max_running=MAX_RUNNING, max_step_tokens=MAX_STEP_TOKENS, aging_s=25e-9)

    @rule(
        target=sequences,
        prompt=st.lists(st.sampled_from([1, 1, 1, 3]), min_size=1, max_size=30),
        most=st.integers(1, 30),
        given=st.integers(0, 29),
        priority=st.integers(-1, 1),
        tenant=st.sampled_from(["", "a", "b"]),
        admitted=st.sampled_from([False, False, True]),
        deadline=st.none() | st.integers(1, 40),
    )
    def add(
        self,
        *,
        prompt: list[int],
        most: int,
        given: int,
        priority: int,
        tenant: str,
        admitted: bool,
        deadline: int | None,
    ) -> Sequence:
        request = TokenRequest(
            prompt_token_ids=tuple(prompt),
            envelope=Envelope(
                f"request-{len(self.added)}",
                priority=priority,
                tenant=tenant,
                admitted=admitted,
                deadline_unix_ns=None if deadline is None else self.now + deadline,
            ),
            stop=StopParams(max_output_tokens=most),
            output_token_ids=(2,) * min(given, most - 1),
        )
        sequence = Sequence(request, frozenset({EOS}), len(self.added), self.now)
        self.added.append(sequence)
        can_start = self.scheduler.can_start(sequence)
        self.scheduler.add(sequence)
        starts = sequence in self.scheduler.running
        if can_start or self.is_between_steps:
            assert starts == can_start
        # else: room that the plan made is given away now, to those that waited and perhaps to this one, too.
        return sequence

    @property
    def is_between_steps(self) -> bool:
        return self.planned is self.plan is None

    @precondition(lambda self: self.is_between_steps)
    @rule()
    def schedule(self) -> None:
        plan = self.planned = self.scheduler.schedule(self.now)
        assert bool(plan.scheduled) == bool(self.scheduler.running)
        assert sum(tokens.length for tokens in plan.scheduled) <= MAX_STEP_TOKENS
        planned = [tokens.sequence for tokens in plan.scheduled]
        assert len(set(planned)) == len(planned)
        for tokens in plan.scheduled:
            assert tokens.start == tokens.sequence.computed_tokens
            assert tokens.samples == (tokens.start + tokens.length == tokens.sequence.total_tokens)
        running = self.scheduler.running
        held = any(map(holds_low_back, running))
        for sequence in running:
            if sequence.is_low and held:
                assert sequence not in planned
            elif sequence.pending_tokens == 1:
                assert sequence in planned
        if not all(sequence.is_low for sequence in running):
            assert sum(tokens.length for tokens in plan.scheduled if tokens.sequence.is_low) <= MAX_RUNNING
        if self.scheduler.waiting:
            assert not any(gives_way(sequence, self.scheduler.waiting[0]) for sequence in running)

    @precondition(lambda self: self.planned is not None)
    @rule(drafts=st.lists(st.lists(st.sampled_from([2, 2, 2, EOS, 3]), max_size=5), min_size=3, max_size=3))
    def compute(self, drafts: list[list[int]]) -> None:
        """Draft for the step, unless nothing is guessed, and compute it."""
        assert self.planned is not None
        rooms = self.planned.draftable
        assert all(0 < room <= MAX_STEP_TOKENS for room in rooms.values())
        guesses = {sequence: tuple(draft[: rooms[sequence]]) for sequence, draft in zip(rooms, drafts, strict=False)}
        self.plan = self.extend(self.planned, guesses) if any(guesses.values()) else self.planned
        self.planned = None
        written = [slot for tokens in self.plan.scheduled for slot in self.write(tokens)]
        assert len(set(written)) == len(written), "nobody writes where another one does"

    def extend(self, plan: StepPlan, drafts: dict[Sequence, tuple[int, ...]]) -> StepPlan:
        """Add drafts, which may cost nobody anything."""
        running, waiting = self.scheduler.running, self.scheduler.waiting
        extended = self.scheduler.extend(plan, drafts)
        assert (self.scheduler.running, self.scheduler.waiting) == (running, waiting)
        assert sum(tokens.rows for tokens in extended.scheduled) <= MAX_STEP_TOKENS
        live = [tokens for tokens in plan.scheduled if not tokens.sequence.ended]
        for before, after in zip(live or plan.scheduled, extended.scheduled, strict=True):
            assert (after.sequence, after.start, after.length) == (before.sequence, before.start, before.length)
            assert drafts.get(after.sequence, ())[: len(after.draft)] == after.draft
            assert after.end + len(after.draft) < after.sequence.limit_tokens or not after.draft
        return extended

    def write(self, tokens: ScheduledTokens) -> list[int]:
        """Write tokens where the plan says, and see that all that they attend to lies where the plan says.

        In place of keys and values the slot of a token holds the tokens up to it, which those depend on.
        """
        text = (*tokens.sequence.token_ids(0, tokens.end), *tokens.draft)
        size = self.cache.page_tokens
        assert len(tokens.pages) == -(-len(text) // size)
        slots = [tokens.pages[position // size] * size + position % size for position in range(len(text))]
        for position, slot in enumerate(slots):
            if position >= tokens.start:
                self.content[slot] = text[: position + 1]
        assert [self.content.get(slot) for slot in slots] == [text[: end + 1] for end in range(len(text))]
        return slots[tokens.start :]

    @precondition(lambda self: self.plan is not None)
    @rule(data=st.data())
    def update(self, data: st.DataObject) -> None:
        assert self.plan is not None
        plan = self.plan
        drawn = [data.draw(st.sampled_from([EOS, 2, 2, 2, 2, None])) for _ in plan.sampled]
        live = [not sequence.ended for sequence in plan.sampled]
        before = [len(sequence.output_token_ids) for sequence in plan.sampled]
        holding = self.scheduler.update(plan, drawn, self.now)
        for sequence, token_id, was_live, length in zip(plan.sampled, drawn, live, before, strict=True):
            grown = was_live and token_id is not None
            assert len(sequence.output_token_ids) == length + grown
            given = sequence.request.output_token_ids
            assert sequence.cached_prompt_tokens <= len(sequence.request.prompt_token_ids) - (not given)
            if was_live and token_id is None:
                assert isinstance(sequence.failure, NumericalError)
        foretold = [
            tokens.sequence
            for tokens, token_id in zip([one for one in plan.scheduled if one.samples], drawn, strict=True)
            if tokens.draft[:1] == (token_id,) and not tokens.sequence.ended
        ]
        assert holding.sampled == foretold
        self.plan = holding if holding.scheduled else None

    @precondition(lambda self: self.is_between_steps)
    @rule(steps=st.integers(1, 8), draft=st.lists(st.sampled_from([2, 2, 2, 3]), max_size=8))
    def run(self, steps: int, draft: list[int]) -> None:
        """Go some steps without an interruption, so that much of what happens happens in decode."""
        for _ in range(steps):
            self.schedule()
            self.compute([draft] * MAX_RUNNING)
            self.finish_step()

    def finish_step(self) -> None:
        if self.planned is not None:
            self.compute([[]] * MAX_RUNNING)
        while self.plan is not None and self.plan.scheduled:
            self.plan = self.scheduler.update(self.plan, [2] * len(self.plan.sampled), self.now)
        self.plan = None
        self.everything_is_in_one_place()
        self.pages_are_in_order()
        self.nobody_waits_without_need()

    @precondition(lambda self: self.plan is not None)
    @rule()
    def abandon(self) -> None:
        """Give the step up, of which nothing is left but what was written where nothing counts."""
        assert self.plan is not None
        self.scheduler.abandon(self.plan)
        self.plan = None

    @rule(sequence=consumes(sequences))
    def abort(self, sequence: Sequence) -> None:
        was_live = not sequence.ended
        assert (self.scheduler.abort(sequence.request_id, GenerationCancelled()) is not None) == was_live
        assert sequence.ended

    @rule(passed=st.integers(1, 20))
    def expire(self, passed: int) -> None:
        self.now += passed
        for sequence in self.scheduler.expire(self.now):
            assert isinstance(sequence.failure, DeadlineExceeded)
        for sequence in (*self.scheduler.waiting, *self.scheduler.running):
            deadline = sequence.request.envelope.deadline_unix_ns
            assert deadline is None or deadline > self.now

    @invariant()
    def everything_is_in_one_place(self) -> None:
        waiting, running = self.scheduler.waiting, self.scheduler.running
        live = {*waiting, *running}
        assert len(live) == len(waiting) + len(running)
        assert live == {sequence for sequence in self.added if not sequence.ended}
        assert all((sequence.finish is None) or (sequence.failure is None) for sequence in self.added)

    @invariant()
    def pages_are_in_order(self) -> None:
        running = self.scheduler.running
        assert len(running) <= MAX_RUNNING
        self.cache.check_integrity()
        assert self.cache.used_tokens <= CAPACITY_TOKENS
        assert bool(self.cache.used_tokens) == bool(running)
        assert all(self.cache.pages(sequence, 1) for sequence in running)
        for sequence in running:
            assert sequence.computed_tokens < sequence.total_tokens <= sequence.limit_tokens
            assert 0 <= sequence.accepted_tokens <= sequence.drafted_tokens
            # What the next token needs is taken when it is planned.
            needed = -(-(sequence.total_tokens - 1) // self.cache.page_tokens)
            assert len(self.cache.pages(sequence, sequence.total_tokens)) >= needed
            if self.is_between_steps:  # no page is left from a draft
                most = -(-sequence.total_tokens // self.cache.page_tokens)
                assert len(self.cache.pages(sequence, CAPACITY_TOKENS)) <= most
        assert all(sequence.computed_tokens == 0 for sequence in self.scheduler.waiting)

    @invariant()
    def nobody_waits_without_need(self) -> None:
        # Room that a plan makes, by sharing what was computed meanwhile, is given away when the step is booked.
        if self.scheduler.waiting and self.is_between_steps:
            head = self.scheduler.waiting[0]
            assert head.level == max(sequence.level for sequence in self.scheduler.waiting)
            assert self.scheduler.running
            assert len(self.scheduler.running) == MAX_RUNNING or not self.cache.can_allocate(head)

    def teardown(self) -> None:
        if not self.added:
            return
        self.finish_step()
        steps = 0
        while self.scheduler.running:
            self.schedule()
            self.compute([[2] * (steps % 5)] * MAX_RUNNING)
            assert self.plan is not None
            first = min(self.scheduler.running, key=lambda sequence: (-sequence.level, sequence.place))
            assert first in [tokens.sequence for tokens in self.plan.scheduled], "the first one makes progress"
            self.finish_step()
            self.everything_is_in_one_place()
            self.pages_are_in_order()
            self.nobody_waits_without_need()
            steps += 1
            # Whoever is the first one is computed once, so all of them are done after this many steps.
            assert steps <= sum(sequence.limit_tokens for sequence in self.added)
        assert all(sequence.ended for sequence in self.added)
        assert self.scheduler.waiting == self.scheduler.running == ()
        assert self.cache.used_tokens == 0


TestSchedulerWorkload = SchedulerWorkload.TestCase
TestSchedulerWorkload.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
