"""Who waits for a place, and who goes first."""

from __future__ import annotations

from collections.abc import Iterator

from qwire.engine.counters import TokenCounters
from qwire.engine.sequence import Sequence


class WaitingQueue:
    """Sequences without a place, and the order of all sequences, with a place or without; see `Scheduler`."""

    def __init__(self) -> None:
        self._sequences: dict[str, Sequence] = {}
        self._counters = TokenCounters()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """Iterate over those that wait, in any order."""
        return iter(self._sequences.values())

    @property
    def first(self) -> Sequence:
        """Who goes first; somebody must wait."""
        return min(self, key=self.order)

    def find(self, request_id: str) -> Sequence | None:
        """Return the one of this id."""
        return self._sequences.get(request_id)

    def arrive(self, sequence: Sequence) -> None:
        """Put a sequence in that is new."""
        self._counters.arrive(sequence.tenant, (waiting.tenant for waiting in self))
        self.put(sequence)

    def put(self, sequence: Sequence) -> None:
        """Put a sequence in that had a place."""
        self._sequences[sequence.request_id] = sequence

    def remove(self, sequence: Sequence) -> bool:
        """Take a sequence out; False = it is not in."""
        was_in = self._sequences.pop(sequence.request_id, None) is not None
        if not self._sequences:
            self._counters.clear()
        return was_in

    def charge(self, sequence: Sequence, tokens: int) -> None:
        """Count tokens that a sequence's tenant was given, as long as somebody waits."""
        if self._sequences:
            self._counters.charge(sequence.tenant, tokens)

    def order(self, sequence: Sequence) -> tuple[int, int, int, int]:
        """Return where a sequence stands: the smallest goes first. Of two that had a place, it changes only by age."""
        if sequence.place is not None:
            return -sequence.level, 0, sequence.place, 0
        if sequence.request.envelope.admitted and sequence.request.output_token_ids:
            return -sequence.level, 1, 0, sequence.arrival
        return -sequence.level, 2, self._counters.of(sequence.tenant), sequence.arrival

    def count_before(self, sequence: Sequence) -> int:
        """Return how many of those that wait would go before a sequence that does not."""
        order = self.order(sequence)
        return sum(1 for waiting in self if self.order(waiting) < order)
