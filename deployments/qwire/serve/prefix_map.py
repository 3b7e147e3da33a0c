"""Remembers which replica computed which beginnings of prompts."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

Replica = TypeVar("Replica")

_MAX_PAGES = 256


def page_hashes(token_ids: Sequence[int], page_tokens: int) -> tuple[int, ...]:
    """Return a hash of the first page of a prompt, of the first two, and so on; whole pages only, and not endlessly."""
    hashes: list[int] = []
    chain = 0
    for page in range(min(len(token_ids) // page_tokens, _MAX_PAGES)):
        chain = hash((chain, *token_ids[page * page_tokens : (page + 1) * page_tokens]))
        hashes.append(chain)
    return tuple(hashes)


class PrefixMap(Generic[Replica]):
    """Beginnings by the replica that saw them last.

    Each has one place, by its hash, and leaves it to the next one there. What is asked for often is soon back; and a
    table that neither grows nor is ever rebuilt takes the same memory for as long as a gateway lives.

    Args:
        places: Of beginnings, one per page of a prompt.
        slack: How many requests more than the least loaded one the replica with a beginning may have.
    """

    def __init__(self, places: int, slack: int) -> None:
        self._places = places
        self._slack = slack
        self._hashes = array("q", bytes(8 * places))
        self._replicas: list[Replica | None] = [None] * places

    def find(self, hashes: Sequence[int], loads: Mapping[Replica, int]) -> Replica | None:
        """Return the replica with the longest beginning of a prompt.

        A beginning that everybody shares must not gather everybody at one replica: one that is too busy is passed over.

        Args:
            hashes: Of the prompt.
            loads: Requests at each replica that may be chosen.

        Returns:
            A replica; None = none of these has any beginning, or the one that has is too busy.
        """
        for key in reversed(hashes):
            place = key % self._places
            replica = self._replicas[place] if self._hashes[place] == key else None
            if replica is not None and replica in loads:
                return replica if loads[replica] - min(loads.values()) <= self._slack else None
        return None

    def learn(self, hashes: Sequence[int], replica: Replica) -> None:
        """Remember that a replica computes a prompt."""
        for key in hashes:
            place = key % self._places
            self._hashes[place], self._replicas[place] = key, replica
