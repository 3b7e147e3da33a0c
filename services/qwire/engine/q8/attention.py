"""Attention of packed tokens, by the compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.kv_pool import KVPool
from qwire.engine.q8.library import AttentionArgument, Library
from qwire.engine.q8.pieces import Pieces
from qwire.engine.segment import Segment


@dataclass(frozen=True, slots=True)
class KernelBatch:
    """See `qwire.engine.paged_attention.StepAttention`.

    Attributes:
        library: Computes it.
        pool: The keys and values.
        pieces: The tokens.
    """

    library: Library
    pool: KVPool
    pieces: Pieces

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `StepAttention.attend`. A token's output has the same bits whatever else is in the step."""
        keys, values = self.pool.layer(layer)
        pieces, page_tokens = self.pieces, self.pool.page_tokens
        _, heads, tokens, size = query.shape
        parts = tuple(part[0].transpose(0, 1) for part in (query, key, value))
        strides = (parts[0].stride(0), size, 1)
        if any(part.stride() != strides for part in parts):
            joined = torch.cat(parts, dim=1)
            parts = joined.split((heads, key.shape[1], value.shape[1]), dim=1)
        out = query.new_empty(1, tokens, heads, size)
        argument = AttentionArgument(
            *(keys.data_ptr(), values.data_ptr(), heads, key.shape[1], size, page_tokens, tokens, len(pieces.pieces)),
            *(pieces.slots.data_ptr(), pieces.pages.data_ptr(), pieces.pieces.data_ptr()),
            *(part.data_ptr() for part in parts),
            *(parts[0].stride(0), scaling),
        )
        self.library.attend(argument, out.data_ptr())
        return out


class KernelAttention:
    """See `qwire.engine.paged_attention.PagedAttention`. For float32 keys and values on a CPU.

    Args:
        library: Computes it.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def batch(self, pool: KVPool, segments: list[Segment]) -> KernelBatch:
        """See `PagedAttention.batch`."""
        return KernelBatch(self._library, pool, Pieces.of(segments, pool.page_tokens))
