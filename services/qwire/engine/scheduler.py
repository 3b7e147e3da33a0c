"""Who waits, who runs, and what the next step computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qwire.engine.cache import KVCacheManager
from qwire.engine.errors import DeadlineExceeded, EngineError, NumericalError
from qwire.engine.priority import StepBudget, gives_way, holds_low_back, raise_levels
from qwire.engine.sequence import Sequence
from qwire.engine.step_drafts import add_drafts, take_back_drafts
from qwire.engine.step_plan import ScheduledTokens, StepPlan
from qwire.engine.waiting_queue import WaitingQueue


class Scheduler:
    """Keeps the waiting queue and the running sequences, and plans step after step.

    A step holds one token of every sequence in decode, then prefill chunks in the order of the running, several
    sequences in one step, as far as `max_step_tokens` goes. Low ones live on what others leave: they are held back,
    with their places and their cache, while a prompt of others is computed, and beside others in decode they have
    `max_running` tokens of a step together.

    Of those that wait, the highest priority goes first; then those that ran before; then the tenant that was given the
    fewest tokens; then the first to arrive. Whoever is first is not overtaken by a smaller one, and being passed over
    raises the priority, so nobody starves.

    Where the first one finds no place or no cache, running sequences of lower priorities give up theirs, see
    `gives_way`. KV cache is taken as sequences grow, and when there is none left, running ones lose theirs in any case.
    It is the last one each time, by priority and the order in which they were given their places: it goes back to the
    queue, and computes its prompt and output so far again when there is room. That order never changes, whatever
    tenants are given, and the first one of the highest priority never loses its cache, so something always progresses.

    Drafts get what is left of a step when all of this is planned: a prompt that waits for its computation goes before
    any guess. They take free pages only, and give back what they did not need, so that the cache is between two steps
    as it would be without them. Not thread-safe.

    Args:
        cache: Where sequences take their KV cache.
        max_running: The most sequences at once.
        max_step_tokens: The most tokens in a step, at least `max_running`.
        aging_s: Being passed over for this long raises the priority by one, seconds.

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
        self._places = 0
        self.departures = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self._waiting = WaitingQueue()
        self._running: dict[str, Sequence] = {}

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The queue; who goes first is first."""
        return tuple(sorted(self._waiting, key=self._waiting.order))

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences in prefill or decode."""
        return tuple(self._running.values())

    def find(self, request_id: str) -> Sequence | None:
        """Return the live sequence of this id."""
        return self._waiting.find(request_id) or self._running.get(request_id)

    def can_start(self, sequence: Sequence) -> bool:
        """Say whether a sequence that is not live would have a place at once."""
        has_place = len(self._running) < self._max_running and self._cache.can_allocate(sequence)
        return has_place and self.count_before(sequence) == 0

    def count_before(self, sequence: Sequence) -> int:
        """Return how many of those that wait would go before a sequence that is not live."""
        return self._waiting.count_before(sequence)

    def count_giving_way(self, sequence: Sequence) -> int:
        """Return how many running ones would give up their places to a sequence that has none."""
        return sum(1 for running in self._running.values() if gives_way(running, sequence))

    def outranks(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Say whether a step is worth less than that a live sequence begins at once: low ones would not be in its."""
        if not holds_low_back(sequence) or not any(tokens.sequence.is_low for tokens in plan.scheduled):
            return False
        has_place = sequence.request_id in self._running
        return has_place or (self._waiting.first is sequence and self.count_giving_way(sequence) > 0)

    def reusable_tokens(self, sequence: Sequence) -> int:
        """Return how many of the tokens of a sequence without a place need not be computed, as of now."""
        return self._cache.reusable_tokens(sequence)

    def add(self, sequence: Sequence) -> None:
        """Admit or queue a sequence whose id is not live and that fits the whole cache, with the most output."""
        self._waiting.arrive(sequence)
        self._admit()

    def abort(self, request_id: str, failure: EngineError) -> Sequence | None:
        """End a live sequence now, with this failure; None = no such sequence is live."""
        sequence = self.find(request_id)
        if sequence is not None:
            self._fail(sequence, failure)
            self._admit()
        return sequence

    def spoil(self, sequence: Sequence, failure: EngineError) -> None:
        """End a running sequence that cannot go on; where its numbers are not finite, nobody finds its pages again."""
        if isinstance(failure, NumericalError):
            self._cache.forget(sequence)
        self._fail(sequence, failure)

    def expire(self, now_unix_ns: int) -> list[Sequence]:
        """End every sequence whose deadline has passed, and return them; raise the level of those passed over."""
        late = [sequence for sequence in (*self.waiting, *self.running) if sequence.is_late(now_unix_ns)]
        for sequence in late:
            self._fail(sequence, DeadlineExceeded())
        raise_levels(self._waiting, self._running.values(), now_unix_ns, self._aging_ns)
        self._admit()
        return late

    def schedule(self, now_unix_ns: int) -> StepPlan:
        """Plan the next step; an empty plan means that nothing is live."""
        preempted = [*self._make_way(now_unix_ns), *self._grow(now_unix_ns)]
        budget = StepBudget(self._running.values(), self._max_step_tokens, self._max_running)
        scheduled: list[ScheduledTokens] = []
        for sequence in sorted(self._running.values(), key=self._step_order):
            room = budget.room(sequence)
            if room == 0:
                continue
            if sequence.pending_tokens > 1:
                sequence.reuse(self._cache.extend_reuse(sequence))
            start, pending = sequence.computed_tokens, sequence.pending_tokens
            length = min(pending, room)
            budget.take(sequence, length)
            sequence.scheduled_unix_ns = sequence.scheduled_unix_ns or now_unix_ns
            pages = self._cache.pages(sequence, start + length)
            scheduled.append(ScheduledTokens(sequence, start, length, length == pending, pages))
        return StepPlan(tuple(scheduled), tuple(preempted), budget.spare_tokens)

    def extend(self, plan: StepPlan, drafts: Mapping[Sequence, tuple[int, ...]]) -> StepPlan:
        """Add drafts to what `schedule` returned last; see `add_drafts`."""
        extended = add_drafts(plan, drafts, self._cache)
        self.drafted_tokens += sum(len(tokens.draft) for tokens in extended.scheduled)
        return extended

    def update(self, plan: StepPlan, token_ids: Iterable[int | None], now_unix_ns: int) -> StepPlan:
        """Book a computed step.

        Args:
            plan: The step.
            token_ids: The drawn token of each of `plan.sampled`; None = none could be drawn.
            now_unix_ns: When they were drawn.

        Returns:
            What of the drafts holds: tokens that are computed, to be drawn from and booked the same way; empty at last.
        """
        holding: list[ScheduledTokens] = []
        for tokens in plan.scheduled:
            if not tokens.sequence.ended:  # else it was aborted while the step was computed
                tokens.sequence.scored_tokens += len(tokens.sequence.unscored(tokens.start, tokens.length))
                tokens.sequence.computed_tokens += tokens.length
                tokens.sequence.served_unix_ns = now_unix_ns
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
            self._waiting.charge(sequence, 1)
            if sequence.ended:
                self._release(sequence)
            elif behind is not None:
                holding.append(behind)
            elif tokens.draft:
                self._cache.trim(sequence, sequence.computed_tokens)
        self._admit()
        return StepPlan(tuple(holding))

    def abandon(self, plan: StepPlan) -> None:
        """Take back a step that was not computed to its end: everybody stands where the step before left them."""
        self.drafted_tokens -= take_back_drafts(plan, self._cache)

    def _make_way(self, now_unix_ns: int) -> list[Sequence]:
        """Admit the first ones of the queue at the cost of lower priorities; return who lost their places."""
        preempted: list[Sequence] = []
        self._admit()
        while self._waiting:
            yielding = [running for running in self._running.values() if gives_way(running, self._waiting.first)]
            if not yielding:
                break
            preempted.append(self._preempt(max(yielding, key=self._waiting.order), now_unix_ns))
            self._admit()
        return preempted

    def _grow(self, now_unix_ns: int) -> list[Sequence]:
        """Give every running sequence the KV cache for its next token, the first one first; return who lost its own."""
        preempted: list[Sequence] = []
        for sequence in sorted(self._running.values(), key=self._waiting.order):
            while sequence not in preempted and not self._cache.can_grow(sequence):
                preempted.append(self._preempt(max(self._running.values(), key=self._waiting.order), now_unix_ns))
            if sequence not in preempted:
                self._cache.grow(sequence)
        return preempted

    def _preempt(self, sequence: Sequence, now_unix_ns: int) -> Sequence:
        self._release(sequence)
        sequence.preempt(now_unix_ns)
        self._waiting.put(sequence)
        return sequence

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            if not self._cache.can_allocate(sequence := self._waiting.first):
                return
            self._waiting.remove(sequence)
            sequence.reuse(self._cache.allocate(sequence))
            self._running[sequence.request_id] = sequence
            if sequence.place is None:
                self._places += 1
                sequence.place = self._places
                self._waiting.charge(sequence, sequence.pending_tokens)

    def _fail(self, sequence: Sequence, failure: EngineError) -> None:
        sequence.failure = failure
        if not self._waiting.remove(sequence):
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        del self._running[sequence.request_id]
        self._cache.free(sequence)
        self.departures += sequence.ended

    def _step_order(self, sequence: Sequence) -> tuple[bool, tuple[int, int, int, int]]:
        """Decode before prefill: `max_step_tokens >= max_running`, so all in decode have their token in every step."""
        return sequence.pending_tokens > 1, self._waiting.order(sequence)
