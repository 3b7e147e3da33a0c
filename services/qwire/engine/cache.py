"""How much KV cache is promised to whom. The tensors themselves are the model runner's."""

from __future__ import annotations

from qwire.engine.sequence import Sequence


class KVCacheManager:
    """A budget of tokens, from which a sequence reserves all that it may ever need before it starts.

    So nothing runs out in mid-generation, and no generation is ever stopped for another one's sake.

    Args:
        capacity_tokens: Tokens that the cache holds.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self._reserved: dict[Sequence, int] = {}
        self._used_tokens = 0

    @property
    def used_tokens(self) -> int:
        """Tokens reserved."""
        return self._used_tokens

    def can_allocate(self, sequence: Sequence) -> bool:
        """Say whether there is room for the sequence now."""
        return self._used_tokens + sequence.reserved_tokens <= self.capacity_tokens

    def allocate(self, sequence: Sequence) -> None:
        """Reserve room for a sequence that has none yet and that `can_allocate` approved."""
        self._reserved[sequence] = sequence.reserved_tokens
        self._used_tokens += sequence.reserved_tokens

    def free(self, sequence: Sequence) -> None:
        """Take back what the sequence reserved."""
        self._used_tokens -= self._reserved.pop(sequence)
