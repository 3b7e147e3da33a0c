"""Attention that reads keys and values in the pages in which they lie, and attends for each token by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qwire.engine.kv_pool import KeysAndValues
from qwire.engine.segment import Segment

PIECE_TOKENS = 16
"""The most tokens that are attended for together: enough to read their keys once for many, and few enough for a prompt
to be shared among the cores."""


class PagedAttention(Protocol):
    """Attends for all packed tokens of a step. A token's output has the same bits whatever else is in the step."""

    def __call__(
        self,
        pieces: Pieces,
        layer: KeysAndValues,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        page_tokens: int,
        scaling: float,
    ) -> Tensor:
        """Store the new keys and values of each sequence and attend to all that it has.

        Args:
            pieces: The tokens.
            layer: All keys and values of the layer, each `[slots, kv_heads, head_size]`.
            query: `[1, heads, tokens, head_size]`.
            key: `[1, kv_heads, tokens, head_size]`.
            value: As `key`.
            page_tokens: Slots of a page.
            scaling: Factor of the scores.

        Returns:
            `[1, tokens, heads, head_size]`, contiguous
        """
        ...


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
    def of(cls, segments: list[Segment], slots: Tensor) -> Pieces:
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
        return cls(torch.tensor(pieces), torch.tensor(pages), slots)
