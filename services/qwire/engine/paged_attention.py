"""Attention that reads keys and values in the pages in which they lie."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from qwire.engine.kv_pool import KVPool
from qwire.engine.segment import Segment


class StepAttention(Protocol):
    """The attention of one step, whose tokens stand packed, one sequence after the other."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Store the new keys and values of each sequence and attend to all that it has.

        Args:
            layer: Index of the layer.
            query: `[1, heads, tokens, head_size]`.
            key: `[1, kv_heads, tokens, head_size]`.
            value: As `key`.
            scaling: Factor of the scores.

        Returns:
            `[1, tokens, heads, head_size]`
        """
        ...


class PagedAttention(Protocol):
    """Attends for all packed tokens of a step at once."""

    def batch(self, pool: KVPool, segments: list[Segment]) -> StepAttention:
        """Prepare what is the same for all layers of a step.

        Args:
            pool: The keys and values of all sequences.
            segments: The sequences, in the order of their packed tokens.
        """
        ...
