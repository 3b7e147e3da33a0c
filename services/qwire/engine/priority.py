"""What a priority takes and what it is spared: places, steps, and how it rises.

A sequence takes from others by the priority that its caller asked for, and is spared by its level, which rises while it
is passed over. So what has risen keeps what it got, and takes nothing from others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from qwire.engine.sequence import Sequence

_HIGHEST_LEVEL = 1


def gives_way(running: Sequence, waiting: Sequence) -> bool:
    """Say whether a running sequence would give its place to one that waits: to a higher priority only.

    It does so once between two output tokens of its own, so that it gets on whatever comes. A health check is nobody's
    work, and takes the places of low ones only.
    """
    priority = min(waiting.priority, 0) if waiting.request.envelope.is_probe else waiting.priority
    return running.level < priority and running.total_tokens > running.preempted_tokens


def holds_low_back(running: Sequence) -> bool:
    """Say whether low ones get nothing in the steps of a running sequence: not while its prompt is computed."""
    return running.priority >= 0 and running.pending_tokens > 1


class StepBudget:
    """What is left of a step.

    Low ones live on what others leave: they have nothing while a prompt of others is computed, beside others in decode
    `most_beside` tokens together, and alone the whole step.

    Args:
        running: Who is in it.
        tokens: Tokens of a step.
        most_beside: See above.
    """

    def __init__(self, running: Collection[Sequence], tokens: int, most_beside: int) -> None:
        self._left = self._left_for_low = tokens
        self._has_low = False
        if any(map(holds_low_back, running)):
            self._left_for_low = 0
        elif not all(sequence.is_low for sequence in running):
            self._left_for_low = min(tokens, most_beside)

    @property
    def spare_tokens(self) -> int:
        """What nobody took, for guesses; where low ones take part, no more than is left for them."""
        return min(self._left, self._left_for_low) if self._has_low else self._left

    def room(self, sequence: Sequence) -> int:
        """Return how many tokens a sequence may take."""
        return min(self._left, self._left_for_low) if sequence.is_low else self._left

    def take(self, sequence: Sequence, tokens: int) -> None:
        """Give tokens to a sequence that has room for them."""
        self._left -= tokens
        if sequence.is_low:
            self._left_for_low -= tokens
            self._has_low = True


def raise_levels(waiting: Iterable[Sequence], running: Iterable[Sequence], now_unix_ns: int, aging_ns: int) -> None:
    """Raise the levels of those that are passed over.

    Whoever waits while one of its own priority that came before it is computed, waits for its turn and is not passed
    over. Else a job that keeps the queue full would rise by that alone.

    Args:
        waiting: The queue.
        running: Those that have a place, some of which may get nothing in a step.
        now_unix_ns: Now, nanoseconds since the epoch.
        aging_ns: A level rises by one in this time, nanoseconds.
    """
    first = {one.priority: one for one in sorted(running, key=lambda one: one.arrival, reverse=True)}
    for sequence in waiting:
        before = first.get(sequence.priority)
        if before is not None and before.arrival < sequence.arrival:
            sequence.served_unix_ns = max(sequence.served_unix_ns, before.served_unix_ns)
    for sequence in (*waiting, *running):
        aged = sequence.priority + (now_unix_ns - sequence.served_unix_ns) // aging_ns
        if aged > sequence.level:
            sequence.level = min(aged, _HIGHEST_LEVEL)
