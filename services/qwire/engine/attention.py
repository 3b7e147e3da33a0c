"""Attention over packed tokens of many sequences, whose keys and values lie in the pages of one pool.

A step's tokens, whole prompts, parts of prompts and single decode tokens, stand one after the other in one row of a
batch of one. The model computes everything but the attention on the row as a whole. The attention is done by a
`PagedAttention` where there is one, else by torch, sequence by sequence: keys and values are then read as they lie
where a sequence's pages are successive, and gathered where they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwire.engine.kv_pool import KeysAndValues, KVPool
from qwire.engine.paged_attention import PagedAttention
from qwire.engine.segment import Segment


class RaggedBatch:
    """See `qwire.engine.paged_attention.StepAttention`: where keys and values go, and what each token sees.

    What is the same for all layers is made once, here.

    Args:
        pool: The keys and values of all sequences.
        segments: The sequences, in the order of their packed tokens.
        paged: Attends for them; None = torch does, sequence by sequence.
    """

    def __init__(self, pool: KVPool, segments: list[Segment], paged: PagedAttention | None = None) -> None:
        device = pool.shape.device
        self._pool = pool
        self._paged = None if paged is None else paged.batch(pool, segments)
        if self._paged is not None:
            return
        slots = [slot for segment in segments for slot in segment.slots(pool.page_tokens)]
        self._slots = torch.tensor(slots, device=device)
        self._placed = [(end - segment.length, segment) for end, segment in zip(_ends(segments), segments, strict=True)]
        self._masks = [_mask(segment, pool) for segment in segments]
        self._runs = [pool.run(segment.pages[0], segment.end) if segment.is_run else None for segment in segments]
        scattered = [segment for segment, run in zip(segments, self._runs, strict=True) if run is None]
        pages = [page for segment in scattered for page in segment.pages]
        self._scattered_pages = torch.tensor(pages, device=device)
        # One buffer for all layers: they are computed one after the other.
        self._buffer = pool.buffer(len(pages)) if pages else None
        self._gathered = _views(self._buffer, scattered) if self._buffer else []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `StepAttention.attend`."""
        if self._paged is not None:
            return self._paged.attend(layer, query, key, value, scaling)
        self._pool.write(layer, self._slots, key, value)
        _, heads, tokens, head_size = query.shape
        out = query.new_empty(1, tokens, heads, head_size)
        for (place, segment), mask, (k, v) in zip(self._placed, self._masks, self._seen(layer), strict=True):
            q = query.narrow(2, place, segment.length)
            attended = _attend_one(q, k, v, scaling) if segment.length == 1 else _attend_many(q, k, v, mask, scaling)
            out.narrow(1, place, segment.length).copy_(attended.reshape(1, segment.length, heads, head_size))
        return out

    def _seen(self, layer: int) -> list[KeysAndValues]:
        """Return the keys and values of each sequence in one layer."""
        if self._buffer is not None:
            self._pool.gather(layer, self._scattered_pages, self._buffer)
        gathered = iter(self._gathered)
        return [next(gathered) if run is None else run[layer] for run in self._runs]


def _attend_one(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend with one token, whose query heads of one KV head take the place of query positions: nothing is repeated.

    Returns:
        `[1, kv_heads, heads / kv_heads, head_size]`
    """
    kv_heads, head_size = key.shape[1], key.shape[3]
    grouped = query.reshape(1, kv_heads, -1, head_size)
    return scaled_dot_product_attention(grouped, key, value, scale=scaling)


def _attend_many(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attend with several tokens; without a mask they are the sequence's first, for which `is_causal` is right."""
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2)


def _mask(segment: Segment, pool: KVPool) -> Tensor | None:
    """Return what tokens see that follow others; `is_causal` would align the first query with the first key."""
    if segment.start == 0 or segment.length == 1:
        return None
    size = (segment.length, segment.end)
    mask = torch.full(size, -torch.inf, dtype=pool.shape.dtype, device=pool.shape.device)
    return mask.triu_(segment.start + 1)


def _views(buffer: tuple[Tensor, Tensor], segments: list[Segment]) -> list[KeysAndValues]:
    """Return each segment's part of what is gathered for all of them."""
    sizes = [len(segment.pages) for segment in segments]
    parts = zip(*(half.split(sizes) for half in buffer), strict=True)
    return [
        (_heads_first(keys)[:, :, : segment.end], _heads_first(values)[:, :, : segment.end])
        for (keys, values), segment in zip(parts, segments, strict=True)
    ]


def _heads_first(pages: Tensor) -> Tensor:
    """Turn `[pages, page_tokens, kv_heads, head_size]` into `[1, kv_heads, tokens, head_size]`."""
    return pages.flatten(0, 1).transpose(0, 1).unsqueeze(0)


def _ends(segments: list[Segment]) -> Iterator[int]:
    """Return where each segment ends among the packed tokens."""
    return accumulate(segment.length for segment in segments)
