"""Which tokens of which sequence the next step computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from qwire.engine.cache import KVCacheManager
from qwire.engine.errors import DeadlineExceeded, EngineError, NumericalError
from qwire.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledTokens:
    """Tokens of one sequence in one step.

    Attributes:
        sequence: Whose.
        start: Position of the first one.
        length: How many, at least 1.
        samples: Whether they are all that the next output token needs, so that it is drawn in this step.
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the model: what to compute, each sequence at most once."""

    scheduled: tuple[ScheduledTokens, ...]

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get an output token, in the plan's order."""
        return [tokens.sequence for tokens in self.scheduled if tokens.samples]


class Scheduler:
    """Keeps the waiting queue and the running sequences, and plans step after step.

    A step holds one token of every sequence in decode, then prefill chunks by priority and arrival, several sequences
    in one step, as far as `max_step_tokens` goes. The head of the queue is never overtaken, so nobody starves.
    Not thread-safe.

    Args:
        cache: Where admitted sequences reserve their KV cache.
        max_running: The most sequences at once.
        max_step_tokens: The most tokens in a step, at least `max_running`.
    """

    def __init__(self, cache: KVCacheManager, *, max_running: int, max_step_tokens: int) -> None:
        self._cache = cache
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}
        self._released: list[Sequence] = []

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The queue, in order of arrival."""
        return tuple(self._waiting.values())

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences in prefill or decode."""
        return tuple(self._running.values())

    def find(self, request_id: str) -> Sequence | None:
        """Return the live sequence of this id."""
        return self._waiting.get(request_id) or self._running.get(request_id)

    def add(self, sequence: Sequence) -> None:
        """Admit or queue a sequence whose id is not live and whose reservation fits the whole cache."""
        self._waiting[sequence.request_id] = sequence
        self._admit()

    def abort(self, request_id: str, failure: EngineError) -> Sequence | None:
        """End a live sequence now, with this failure; None = no such sequence is live."""
        sequence = self.find(request_id)
        if sequence is not None:
            self._fail(sequence, failure)
            self._admit()
        return sequence

    def expire(self, now_unix_ns: int) -> list[Sequence]:
        """End every sequence whose deadline has passed, and return them."""
        late = [sequence for sequence in (*self.waiting, *self.running) if _is_late(sequence, now_unix_ns)]
        for sequence in late:
            self._fail(sequence, DeadlineExceeded())
        self._admit()
        return late

    def schedule(self, now_unix_ns: int) -> StepPlan:
        """Plan the next step; an empty plan means that nothing is live."""
        running = sorted(self._running.values(), key=_step_order)
        budget = self._max_step_tokens
        scheduled: list[ScheduledTokens] = []
        for sequence in running:
            pending = sequence.pending_tokens
            length = min(pending, budget)
            if length == 0:
                break
            budget -= length
            sequence.scheduled_unix_ns = sequence.scheduled_unix_ns or now_unix_ns
            scheduled.append(ScheduledTokens(sequence, sequence.computed_tokens, length, samples=length == pending))
        return StepPlan(tuple(scheduled))

    def update(self, plan: StepPlan, token_ids: Iterable[int | None], now_unix_ns: int) -> None:
        """Book a computed step.

        Args:
            plan: The step.
            token_ids: The drawn token of each of `plan.sampled`; None = its logits were not finite.
            now_unix_ns: When they were drawn.
        """
        for tokens in plan.scheduled:
            tokens.sequence.computed_tokens += tokens.length
        for sequence, token_id in zip(plan.sampled, token_ids, strict=True):
            if sequence.ended:
                continue  # aborted while the step was computed
            if token_id is None:
                self._fail(sequence, NumericalError())
                continue
            sequence.append(token_id, now_unix_ns)
            if sequence.ended:
                self._release(sequence)
        self._admit()

    def take_released(self) -> list[Sequence]:
        """Return the sequences that held KV cache and have ended since the last call."""
        released, self._released = self._released, []
        return released

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            sequence = min(self._waiting.values(), key=attrgetter("order"))
            if not self._cache.can_allocate(sequence):
                return
            del self._waiting[sequence.request_id]
            self._cache.allocate(sequence)
            self._running[sequence.request_id] = sequence

    def _fail(self, sequence: Sequence, failure: EngineError) -> None:
        sequence.failure = failure
        if self._waiting.pop(sequence.request_id, None) is None:
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        del self._running[sequence.request_id]
        self._cache.free(sequence)
        self._released.append(sequence)


def _is_late(sequence: Sequence, now_unix_ns: int) -> bool:
    deadline = sequence.request.envelope.deadline_unix_ns
    return deadline is not None and deadline <= now_unix_ns


def _step_order(sequence: Sequence) -> tuple[bool, tuple[int, int]]:
    """Decode before prefill: `max_step_tokens >= max_running`, so all in decode have their token in every step."""
    return sequence.pending_tokens > 1, sequence.order
