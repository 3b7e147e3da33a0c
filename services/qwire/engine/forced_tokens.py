"""Drafts of what constraints force: jump-ahead tokens of guided decoding."""

from __future__ import annotations

from collections.abc import Mapping

from qwire.engine.drafter import Drafter, Drafts
from qwire.engine.sequence import Sequence


class ForcedTokens:
    """See `Drafter`. Drafts the tokens that a constraint leaves no choice about, and asks another drafter for the rest.

    A forced token is the only one that may be drawn in its place, so such a draft always holds: it costs no step that
    the token would not have cost anyhow. What the other drafter guesses is cut where the constraint forbids it.

    Args:
        other: Guesses where nothing is forced; None = nobody does.
    """

    def __init__(self, other: Drafter | None = None) -> None:
        self._other = other

    def draft(self, rooms: Mapping[Sequence, int]) -> Drafts:
        """See `Drafter.draft`."""
        drafts: Drafts = {}
        for sequence, room in rooms.items():
            forced = sequence.matcher.forced(sequence.output_token_ids) if sequence.matcher else None
            if forced:
                drafts[sequence] = tuple(forced[:room])
        if self._other is None or len(drafts) == len(rooms):
            return drafts
        guesses = self._other.draft({sequence: room for sequence, room in rooms.items() if sequence not in drafts})
        for sequence, guess in guesses.items():
            allowed = sequence.matcher.allows(sequence.output_token_ids, guess) if sequence.matcher else len(guess)
            if allowed:
                drafts[sequence] = guess[:allowed]
        return drafts
