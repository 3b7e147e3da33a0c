"""What guesses the next tokens of sequences, so that a step can compute several of one sequence at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from qwire.engine.sequence import Sequence

Drafts = dict[Sequence, tuple[int, ...]]
"""The guessed next tokens of some sequences, at least one each."""


class Drafter(Protocol):
    """Guesses next tokens. Used from the thread that runs the steps only, between planning and computing one.

    A wrong guess costs time and changes nothing: each token is drawn from the model's logits all the same, and the rest
    of a draft is thrown away at the first token that it did not foretell.
    """

    def draft(self, rooms: Mapping[Sequence, int]) -> Drafts:
        """Guess for some of the sequences.

        Args:
            rooms: Sequences in decode, the first ones first, and the most tokens that the draft of each may have, at
                least 1. They may be aborted meanwhile.
        """
        ...
