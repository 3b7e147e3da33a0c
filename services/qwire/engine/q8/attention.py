"""Attention of single tokens, by the compiled kernel."""

from __future__ import annotations

from torch import Tensor

from qwire.engine.attention import LoneTokens
from qwire.engine.kv_pool import KeysAndValues
from qwire.engine.q8.library import AttentionArgument, Library


class KernelAttention:
    """See `qwire.engine.attention.LoneAttention`. For float32 keys and values on a CPU.

    Args:
        library: Computes it.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def __call__(
        self, tokens: LoneTokens, layer: KeysAndValues, query: Tensor, out: Tensor, *, page_tokens: int, scaling: float
    ) -> None:
        """See `LoneAttention.__call__`."""
        keys, values = layer
        _, kv_heads, size = keys.shape
        query = query[0].transpose(0, 1)
        if query.stride(1) != size or query.stride(2) != 1:
            query = query.contiguous()
        argument = AttentionArgument(
            *(keys.data_ptr(), values.data_ptr(), query.shape[1], kv_heads, size, page_tokens, len(tokens.ends)),
            *(tokens.pages.data_ptr(), tokens.first_page.data_ptr(), tokens.places.data_ptr(), tokens.ends.data_ptr()),
            scaling,
        )
        self._library.attend(argument, query.data_ptr(), query.stride(0), out.data_ptr())
