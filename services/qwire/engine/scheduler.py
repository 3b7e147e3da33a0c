"""Which tokens of which sequence the next step computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from qwire.engine.cache import KVCacheManager
from qwire.engine.errors import DeadlineExceeded, EngineError
from qwire.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledTokens:
    """Tokens of one sequence in one step.

    Attributes:
        sequence: Whose.
        start: Position of the first one.
        length: How many, at least 1.
        samples: Whether they are all that the next output token needs, so that it is drawn in this step.
        pages: Where the sequence's tokens lie, from its first one to the last one of these.
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the model.

    Attributes:
        scheduled: What to compute, each sequence at most once.
        preempted: Sequences that lost their KV cache for it and wait again.
    """

    scheduled: tuple[ScheduledTokens, ...]
    preempted: tuple[Sequence, ...] = ()

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get an output token, in the plan's order."""
        return [tokens.sequence for tokens in self.scheduled if tokens.samples]


class Scheduler:
    """Keeps the waiting queue and the running sequences, and plans step after step.

    A step holds one token of every sequence in decode, then prefill chunks by priority and arrival, several sequences
    in one step, as far as `max_step_tokens` goes. The head of the queue is never overtaken, so nobody starves.

    KV cache is taken as sequences grow. When there is none left, the last running sequence by priority and arrival
    loses its own, goes back to its place in the queue, and computes its prompt and output so far again when there is
    room. The first one never loses it, so something always progresses. Not thread-safe.

    Args:
        cache: Where sequences take their KV cache.
        max_running: The most sequences at once.
        max_step_tokens: The most tokens in a step, at least `max_running`.
    """

    def __init__(self, cache: KVCacheManager, *, max_running: int, max_step_tokens: int) -> None:
        self._cache = cache
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The queue; who goes first is first."""
        return tuple(sorted(self._waiting.values(), key=_order))

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences in prefill or decode."""
        return tuple(self._running.values())

    def find(self, request_id: str) -> Sequence | None:
        """Return the live sequence of this id."""
        return self._waiting.get(request_id) or self._running.get(request_id)

    def add(self, sequence: Sequence) -> None:
        """Admit or queue a sequence whose id is not live and that fits the whole cache, with the most output."""
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
        """End every sequence whose deadline has passed, and return them."""
        late = [sequence for sequence in (*self.waiting, *self.running) if _is_late(sequence, now_unix_ns)]
        for sequence in late:
            self._fail(sequence, DeadlineExceeded())
        self._admit()
        return late

    def schedule(self, now_unix_ns: int) -> StepPlan:
        """Plan the next step; an empty plan means that nothing is live."""
        preempted = self._grow(now_unix_ns)
        budget = self._max_step_tokens
        scheduled: list[ScheduledTokens] = []
        for sequence in sorted(self._running.values(), key=_step_order):
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
        return StepPlan(tuple(scheduled), tuple(preempted))

    def update(self, plan: StepPlan, token_ids: Iterable[int | None], now_unix_ns: int) -> None:
        """Book a computed step.

        Args:
            plan: The step.
            token_ids: The drawn token of each of `plan.sampled`; None = none could be drawn.
            now_unix_ns: When they were drawn.
        """
        for tokens in plan.scheduled:
            if not tokens.sequence.ended:  # else it was aborted while the step was computed
                tokens.sequence.scored_tokens += len(tokens.sequence.unscored(tokens.start, tokens.length))
                tokens.sequence.computed_tokens += tokens.length
                self._cache.keep(tokens.sequence)
        for sequence, token_id in zip(plan.sampled, token_ids, strict=True):
            if sequence.ended:
                continue
            if token_id is None:
                self.spoil(sequence, sequence.no_token)
                continue
            sequence.append(token_id, now_unix_ns)
            if sequence.ended:
                self._release(sequence)
        self._admit()

    def _grow(self, now_unix_ns: int) -> list[Sequence]:
        """Give every running sequence the KV cache for its next token, the first one first; return who lost its own."""
        preempted: list[Sequence] = []
        for sequence in sorted(self._running.values(), key=_order):
            while sequence not in preempted and not self._cache.can_grow(sequence):
                last = max(self._running.values(), key=_order)
                self._release(last)
                last.preempt(now_unix_ns)
                self._waiting[last.request_id] = last
                preempted.append(last)
            if sequence not in preempted:
                self._cache.grow(sequence)
        return preempted

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            sequence = min(self._waiting.values(), key=_order)
            if not self._cache.can_allocate(sequence):
                return
            del self._waiting[sequence.request_id]
            sequence.reuse(self._cache.allocate(sequence))
            self._running[sequence.request_id] = sequence

    def _fail(self, sequence: Sequence, failure: EngineError) -> None:
        sequence.failure = failure
        if self._waiting.pop(sequence.request_id, None) is None:
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        del self._running[sequence.request_id]
        self._cache.free(sequence)


_order = attrgetter("order")


def _is_late(sequence: Sequence, now_unix_ns: int) -> bool:
    deadline = sequence.request.envelope.deadline_unix_ns
    return deadline is not None and deadline <= now_unix_ns


def _step_order(sequence: Sequence) -> tuple[bool, tuple[int, int]]:
    """Decode before prefill: `max_step_tokens >= max_running`, so all in decode have their token in every step."""
    return sequence.pending_tokens > 1, sequence.order
