"""The tokens of one sequence in one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens of one sequence in one step.

    Attributes:
        pages: Where the sequence's tokens lie, from its first one to the last one of these.
        start: Position of the first of these.
        length: How many they are.
    """

    pages: tuple[int, ...]
    start: int
    length: int

    @property
    def end(self) -> int:
        """Tokens of the sequence up to the last one of these."""
        return self.start + self.length

    @property
    def is_run(self) -> bool:
        """Whether the pages are successive."""
        first = self.pages[0]
        return self.pages == tuple(range(first, first + len(self.pages)))

    def slots(self, page_tokens: int) -> list[int]:
        """Return where these tokens lie."""
        places = (divmod(position, page_tokens) for position in range(self.start, self.end))
        return [self.pages[page] * page_tokens + offset for page, offset in places]
