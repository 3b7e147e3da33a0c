"""The packed tokens of a step, as the compiled kernel takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.segment import Segment

PIECE_TOKENS = 16
"""The most tokens that are attended for together: enough to read their keys once for many, and few enough for a prompt
to be shared among the cores."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The packed tokens of a step, in pieces of a few successive ones. All tensors are int64 on the CPU.

    Attributes:
        pieces: `[pieces, 4]`: where its first token stands among the packed tokens, the position of that in its
            sequence, how many tokens it has, and where the sequence's pages begin in `pages`.
        pages: Those of all sequences, one sequence after the other.
        slots: `[tokens]`: where each token's key and value belong.
    """

    pieces: Tensor
    pages: Tensor
    slots: Tensor

    @classmethod
    def of(cls, segments: list[Segment], page_tokens: int) -> Pieces:
        """Cut segments, whose tokens follow one another."""
        pieces: list[tuple[int, int, int, int]] = []
        pages: list[int] = []
        place = 0
        for segment in segments:
            for first in range(0, segment.length, PIECE_TOKENS):
                count = min(PIECE_TOKENS, segment.length - first)
                pieces.append((place + first, segment.start + first, count, len(pages)))
            place += segment.length
            pages += segment.pages
        slots = [slot for segment in segments for slot in segment.slots(page_tokens)]
        return cls(torch.tensor(pieces), torch.tensor(pages), torch.tensor(slots))
