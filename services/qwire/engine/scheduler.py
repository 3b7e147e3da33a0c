"""Who waits, who runs, and what the next step computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qwire.engine.cache import KVCacheManager
from qwire.engine.counters import TokenCounters
from qwire.engine.errors import DeadlineExceeded, EngineError
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import ScheduledTokens, StepPlan


class Scheduler:
    """Keeps the waiting queue and the running sequences, and plans step after step.

    A step holds one token of every sequence in decode, then prefill chunks in the order of the running, several
    sequences in one step, as far as `max_step_tokens` goes.

    Of those that wait, the highest priority goes first; then those that ran before; then the tenant that was given the
    fewest tokens; then the first to arrive. Whoever is first is not overtaken by a smaller one, and waiting raises the
    priority, so nobody starves.

    KV cache is taken as sequences grow. When there is none left, the last running sequence by priority and the order
    in which they were given their places loses its own, goes back to the queue, and computes its prompt and output so
    far again when there is room. That order never changes, whatever tenants are given, and the first one never loses
    its cache, so something always progresses.

    Drafts get what is left of a step when all of this is planned: a prompt that waits for its computation goes before
    any guess. They take free pages only, and give back what they did not need, so that the cache is between two steps
    as it would be without them. Not thread-safe.

    Args:
        cache: Where sequences take their KV cache.
        max_running: The most sequences at once.
        max_step_tokens: The most tokens in a step, at least `max_running`.
        aging_s: Waiting this long raises the priority by one, seconds.

    Attributes:
        departures: Sequences that had a place and ended.
        drafted_tokens: Tokens of all drafts so far.
        accepted_tokens: Those of them that were then drawn.
    """

    def __init__(self, cache: KVCacheManager, *, max_running: int, max_step_tokens: int, aging_s: float = 30.0) -> None:
        self._cache = cache
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self._aging_ns = int(aging_s * 1e9)
        self._counters = TokenCounters()
        self._places = 0
        self.departures = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The queue; who goes first is first."""
        return tuple(sorted(self._waiting.values(), key=self._order))

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences in prefill or decode."""
        return tuple(self._running.values())

    def find(self, request_id: str) -> Sequence | None:
        """Return the live sequence of this id."""
        return self._waiting.get(request_id) or self._running.get(request_id)

    def can_start(self, sequence: Sequence) -> bool:
        """Say whether a sequence that is not live would have a place at once."""
        has_place = len(self._running) < self._max_running and self._cache.can_allocate(sequence)
        return has_place and self.count_before(sequence) == 0

    def count_before(self, sequence: Sequence) -> int:
        """Return how many of those that wait would go before a sequence that is not live."""
        order = self._order(sequence)
        return sum(1 for waiting in self._waiting.values() if self._order(waiting) < order)

    def reusable_tokens(self, sequence: Sequence) -> int:
        """Return how many of the tokens of a sequence without a place need not be computed, as of now."""
        return self._cache.reusable_tokens(sequence)

    def add(self, sequence: Sequence) -> None:
        """Admit or queue a sequence whose id is not live and that fits the whole cache, with the most output."""
        self._counters.arrive(sequence.tenant, (waiting.tenant for waiting in self._waiting.values()))
        self._waiting[sequence.request_id] = sequence
        self._admit()

    def abort(self, request_id: str, failure: EngineError) -> Sequence | None:
        """End a live sequence now, with this failure; None = no such sequence is live."""
        sequence = self.find(request_id)
        if sequence is not None:
            self._fail(sequence, failure)
            self._admit()
        return sequence

    def spoil(self, sequence: Sequence, failure: EngineError) -> None:
        """End a running sequence whose computation went wrong, with this failure: nobody finds its pages again."""
        self._cache.forget(sequence)
        self._fail(sequence, failure)

    def expire(self, now_unix_ns: int) -> list[Sequence]:
        """End every sequence whose deadline has passed, and return them; raise the priority of those that wait long."""
        late = [sequence for sequence in (*self.waiting, *self.running) if sequence.is_late(now_unix_ns)]
        for sequence in late:
            self._fail(sequence, DeadlineExceeded())
        for sequence in self._waiting.values():
            aged = sequence.request.envelope.priority + (now_unix_ns - sequence.queued_unix_ns) // self._aging_ns
            sequence.level = max(sequence.level, min(aged, _HIGHEST_LEVEL))
        self._admit()
        return late

    def schedule(self, now_unix_ns: int) -> StepPlan:
        """Plan the next step; an empty plan means that nothing is live."""
        preempted = self._grow(now_unix_ns)
        budget = self._max_step_tokens
        scheduled: list[ScheduledTokens] = []
        for sequence in sorted(self._running.values(), key=self._step_order):
            if budget == 0:
                break
            if sequence.pending_tokens > 1:
                sequence.reuse(self._cache.extend_reuse(sequence))
            start, pending = sequence.computed_tokens, sequence.pending_tokens
            length = min(pending, budget)
            budget -= length
            sequence.scheduled_unix_ns = sequence.scheduled_unix_ns or now_unix_ns
            pages = self._cache.pages(sequence, start + length)
            scheduled.append(ScheduledTokens(sequence, start, length, length == pending, pages))
        return StepPlan(tuple(scheduled), tuple(preempted), budget)

    def extend(self, plan: StepPlan, drafts: Mapping[Sequence, tuple[int, ...]]) -> StepPlan:
        """Add drafts to a plan, cut to what the step and the cache have room for, those of the first ones first.

        Args:
            plan: What `schedule` returned last.
            drafts: For some of `plan.draftable`, no longer than it says.
        """
        budget = plan.spare_tokens
        scheduled: list[ScheduledTokens] = []
        for tokens in plan.scheduled:
            sequence, draft = tokens.sequence, drafts.get(tokens.sequence, ())[:budget]
            if not draft or sequence.ended:
                scheduled.append(tokens)
                continue
            draft = draft[: self._cache.stretch(sequence, tokens.end + len(draft)) - tokens.end]
            budget -= len(draft)
            sequence.drafted_tokens += len(draft)
            self.drafted_tokens += len(draft)
            pages = self._cache.pages(sequence, tokens.end + len(draft))
            scheduled.append(replace(tokens, pages=pages, draft=draft))
        return replace(plan, scheduled=tuple(scheduled), spare_tokens=budget)

    def update(self, plan: StepPlan, token_ids: Iterable[int | None], now_unix_ns: int) -> StepPlan:
        """Book a computed step.

        Args:
            plan: The step.
            token_ids: The drawn token of each of `plan.sampled`; None = none could be drawn.
            now_unix_ns: When they were drawn.

        Returns:
            What of the drafts holds: tokens that are computed already, to be drawn from and booked in the same way. It
            is empty at last.
        """
        holding: list[ScheduledTokens] = []
        for tokens in plan.scheduled:
            if not tokens.sequence.ended:  # else it was aborted while the step was computed
                tokens.sequence.scored_tokens += len(tokens.sequence.unscored(tokens.start, tokens.length))
                tokens.sequence.computed_tokens += tokens.length
                self._cache.keep(tokens.sequence)
        sampling = [tokens for tokens in plan.scheduled if tokens.samples]
        for tokens, token_id in zip(sampling, token_ids, strict=True):
            sequence = tokens.sequence
            if sequence.ended:
                continue
            if token_id is None:
                self.spoil(sequence, sequence.no_token)
                continue
            behind = tokens.behind(token_id)
            if behind is not None:
                sequence.accepted_tokens += 1
                self.accepted_tokens += 1
            sequence.append(token_id, now_unix_ns)
            self._counters.charge(sequence.tenant, 1)
            if sequence.ended:
                self._release(sequence)
            elif behind is not None:
                holding.append(behind)
            elif tokens.draft:
                self._cache.trim(sequence)
        self._admit()
        return StepPlan(tuple(holding))

    def _grow(self, now_unix_ns: int) -> list[Sequence]:
        """Give every running sequence the KV cache for its next token, the first one first; return who lost its own."""
        preempted: list[Sequence] = []
        for sequence in sorted(self._running.values(), key=self._order):
            while sequence not in preempted and not self._cache.can_grow(sequence):
                last = max(self._running.values(), key=self._order)
                self._release(last)
                last.preempt(now_unix_ns)
                self._waiting[last.request_id] = last
                preempted.append(last)
            if sequence not in preempted:
                self._cache.grow(sequence)
        return preempted

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            sequence = min(self._waiting.values(), key=self._order)
            if not self._cache.can_allocate(sequence):
                return
            del self._waiting[sequence.request_id]
            sequence.reuse(self._cache.allocate(sequence))
            self._running[sequence.request_id] = sequence
            if sequence.place is None:
                self._places += 1
                sequence.place = self._places
                self._counters.charge(sequence.tenant, sequence.pending_tokens)
        if not self._waiting:
            self._counters.clear()

    def _fail(self, sequence: Sequence, failure: EngineError) -> None:
        sequence.failure = failure
        if self._waiting.pop(sequence.request_id, None) is None:
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        del self._running[sequence.request_id]
        self._cache.free(sequence)
        self.departures += sequence.ended

    def _order(self, sequence: Sequence) -> tuple[int, int, int, int]:
        """Who goes first: the smallest. Of two that ever had a place, it changes only by age."""
        if sequence.place is not None:
            return -sequence.level, 0, sequence.place, 0
        if sequence.request.envelope.admitted:
            return -sequence.level, 1, 0, sequence.arrival
        return -sequence.level, 2, self._counters.of(sequence.tenant), sequence.arrival

    def _step_order(self, sequence: Sequence) -> tuple[bool, tuple[int, int, int, int]]:
        """Decode before prefill: `max_step_tokens >= max_running`, so all in decode have their token in every step."""
        return sequence.pending_tokens > 1, self._order(sequence)


_HIGHEST_LEVEL = 1
