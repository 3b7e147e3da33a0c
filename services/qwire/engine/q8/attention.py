"""Attention of packed tokens, by the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.kv_pool import KeysAndValues
from qwire.engine.paged_attention import Pieces
from qwire.engine.q8.library import AttentionArgument, Library


class KernelAttention:
    """See `qwire.engine.paged_attention.PagedAttention`. For float32 keys and values on a CPU.

    Args:
        library: Computes it.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

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
        """See `PagedAttention.__call__`."""
        keys, values = layer
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
        self._library.attend(argument, out.data_ptr())
        return out
