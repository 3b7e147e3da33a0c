"""Finds stop strings in text that comes in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string, and holds back only what may still become one.

    The first stop string is the one that is complete first; of several that are complete with the same character, the
    longest. So what is found does not depend on how the text is cut into pieces, and nothing is waited for once any
    stop string is there. Time is linear in the text (Aho and Corasick 1975).

    Args:
        stop_strings: The strings, none of them empty.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        # One node for each distinct beginning of a stop string; 0 is the empty one.
        self._children: list[dict[str, int]] = [{}]
        self._fallback: list[int] = [0]
        self._depth: list[int] = [0]
        self._found: list[str | None] = [None]
        for stop_string in stop_strings:
            self._insert(stop_string)
        self._link()
        self._node = 0
        self._held = ""

    def push(self, text: str, *, honour: bool = True) -> tuple[str, str | None]:
        """Take the next piece of text.

        Args:
            text: The piece.
            honour: Whether a stop string that ends in this piece counts; if not, it is text like any other.

        Returns:
            The text that is certainly no part of a stop string, and the stop string found. Once one is found, the
            matcher must not be used again.
        """
        if not self._children[0]:
            return text, None
        node = self._node
        for position, character in enumerate(text):
            node = self._step(node, character)
            found = self._found[node]
            if found is not None and honour:
                return (self._held + text[: position + 1])[: -len(found)], found
            while node and not self._children[node]:
                node = self._fallback[node]
        self._node = node
        seen = self._held + text
        passed = len(seen) - self._depth[node]
        self._held = seen[passed:]
        return seen[:passed], None

    def finish(self) -> str:
        """Return what was held back: no more text comes."""
        return self._held

    def flush(self) -> str:
        """Return what was held back, and begin anew: what follows is not beside it."""
        held, self._held, self._node = self._held, "", 0
        return held

    def _step(self, node: int, character: str) -> int:
        """Return the longest beginning that the text up to this character ends with."""
        children = self._children
        while node and character not in children[node]:
            node = self._fallback[node]
        return children[node].get(character, 0)

    def _insert(self, stop_string: str) -> None:
        node = 0
        for character in stop_string:
            child = self._children[node].get(character)
            if child is None:
                child = self._children[node][character] = len(self._children)
                self._children.append({})
                self._fallback.append(0)
                self._depth.append(self._depth[node] + 1)
                self._found.append(None)
            node = child
        self._found[node] = stop_string

    def _link(self) -> None:
        """Give each node its fallback, the longest other beginning that it ends with, shallow nodes first."""
        pending = deque(self._children[0].values())
        while pending:
            node = pending.popleft()
            for character, child in self._children[node].items():
                self._fallback[child] = self._step(self._fallback[node], character)
                pending.append(child)
            if self._found[node] is None:
                self._found[node] = self._found[self._fallback[node]]
