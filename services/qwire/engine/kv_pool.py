"""The memory of all sequences' keys and values, in pages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KeysAndValues = tuple[Tensor, Tensor]
"""Those of some tokens in one layer, each `[1, kv_heads, tokens, head_size]` where it is not said otherwise."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """Keys and values of a model.

    Attributes:
        layers: Decoder layers.
        kv_heads: Key and value heads of a layer.
        head_size: Numbers in a head.
        dtype: Type of the numbers.
        device: Where they are.
    """

    layers: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Size of a token's keys and values in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.dtype.itemsize


class KVPool:
    """Keys and values of all layers, allocated once. Who owns which page is the `KVCacheManager`'s business.

    A token's place is its slot: pages lie one after the other, and so do the tokens in them. Its heads lie together,
    so that it is written in one piece, and the tokens of successive pages can be read as they lie.

    Args:
        shape: Those of the model.
        pages: How many.
        page_tokens: Tokens that a page holds.

    Attributes:
        pages: See there.
        page_tokens: See there.
    """

    def __init__(self, shape: KVShape, pages: int, page_tokens: int) -> None:
        self.shape = shape
        self.pages = pages
        self.page_tokens = page_tokens
        # Not initialized: what was never written is never read, and on a CPU it takes no memory before.
        size = (shape.layers, pages * page_tokens, shape.kv_heads, shape.head_size)
        self._keys = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self._values = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self._layers = list(zip(self._keys.unbind(0), self._values.unbind(0), strict=True))

    def layer(self, layer: int) -> KeysAndValues:
        """Return all keys and all values of a layer, each `[slots, kv_heads, head_size]`."""
        return self._layers[layer]

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Write new keys and values, `[1, kv_heads, tokens, head_size]`, to the slots of their tokens."""
        keys, values = self._layers[layer]
        keys.index_copy_(0, slots, key[0].transpose(0, 1))
        values.index_copy_(0, slots, value[0].transpose(0, 1))

    def run(self, first_page: int, tokens: int) -> list[KeysAndValues]:
        """Return, for each layer, the keys and values of tokens in successive pages, as they lie."""
        start = first_page * self.page_tokens
        keys = self._keys.narrow(1, start, tokens).transpose(1, 2).unsqueeze(1)
        values = self._values.narrow(1, start, tokens).transpose(1, 2).unsqueeze(1)
        return list(zip(keys.unbind(0), values.unbind(0), strict=True))

    def buffer(self, pages: int) -> tuple[Tensor, Tensor]:
        """Return room for `gather`."""
        size = (pages, self.page_tokens, self.shape.kv_heads, self.shape.head_size)
        keys, values = torch.empty((2, *size), dtype=self.shape.dtype, device=self.shape.device).unbind(0)
        return keys, values

    def gather(self, layer: int, pages: Tensor, buffer: tuple[Tensor, Tensor]) -> None:
        """Copy the keys and values in some pages of one layer, in their order, into a buffer of that size."""
        for half, gathered in zip(self._layers[layer], buffer, strict=True):
            torch.index_select(half.unflatten(0, (-1, self.page_tokens)), 0, pages, out=gathered)
