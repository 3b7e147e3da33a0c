"""Attention on CUDA by flash attention, which reads keys and values in their pages.

`torch.nn.attention.varlen.varlen_attn` (torch 2.13) is FlashAttention-2 in torch's own build. Its demands, from the
source of that build (`aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp`): half precision, a device of
compute capability 8.0 or higher, heads of a multiple of 8 and at most 256 numbers, pages of a multiple of 256 tokens,
and all tables in int32. Its causal mask is aligned at the end: the last query sees all keys of its sequence.

It may share the keys of a sequence among several blocks of the device. Where it then puts the parts together, it counts
on one query of each KV head group per sequence; with others it writes sequences over one another, and says nothing
(pytorch/pytorch#194167). So it is asked not to, but for single tokens of grouped heads, which it turns into such.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from qwire.engine.kv_pool import KVPool, KVShape
from qwire.engine.segment import Segment

PAGE_TOKENS = 256
"""The least tokens of a page."""
_CAPABILITY = (8, 0)
_MOST_HEAD_SIZE = 256


Varlen = Callable[..., Any]
"""Attends; called as `torch.nn.attention.varlen.varlen_attn` is for pages."""


@dataclass(frozen=True, slots=True)
class FlashTables:
    """Where the packed tokens of a step stand. All tensors are on the device, and int32 where it is not said otherwise.

    Attributes:
        slots: `[tokens]`, int64: where each token's key and value belong.
        query_ends: `[sequences + 1]`: where each sequence's tokens begin among the packed ones, and where all end.
        key_ends: `[sequences + 1]`: the same of all tokens that the sequences have.
        lengths: `[sequences]`: tokens that each sequence has, those of the step included.
        pages: `[sequences, most]`: where they lie; what follows a sequence's last page means nothing.
        most_queries: Tokens of the step that a sequence has at most.
        most_keys: Tokens that a sequence has at most, or more.
    """

    slots: Tensor
    query_ends: Tensor
    key_ends: Tensor
    lengths: Tensor
    pages: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, segments: list[Segment], page_tokens: int, device: torch.device) -> FlashTables:
        """Make the tables of segments, whose tokens follow one another, and send them to the device at once."""
        lengths = [segment.end for segment in segments]
        columns = max(len(segment.pages) for segment in segments)
        parts = [
            [slot for segment in segments for slot in segment.slots(page_tokens)],
            [0, *accumulate(segment.length for segment in segments)],
            [0, *accumulate(lengths)],
            lengths,
            [page for segment in segments for page in (*segment.pages, *([0] * (columns - len(segment.pages))))],
        ]
        joined = torch.tensor([number for part in parts for number in part], dtype=torch.int32).to(device)
        slots, query_ends, key_ends, sent_lengths, pages = joined.split([len(part) for part in parts])
        return cls(
            *(slots.long(), query_ends, key_ends, sent_lengths, pages.view(-1, columns)),
            *(max(segment.length for segment in segments), max(lengths)),
        )


@dataclass(frozen=True, slots=True)
class FlashBatch:
    """See `qwire.engine.paged_attention.StepAttention`.

    Attributes:
        varlen: Attends.
        pool: The keys and values.
        tables: The tokens.
    """

    varlen: Varlen
    pool: KVPool
    tables: FlashTables

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `StepAttention.attend`."""
        pool, tables = self.pool, self.tables
        pool.write(layer, tables.slots, key, value)
        keys, values = (half.unflatten(0, (-1, pool.page_tokens)) for half in pool.layer(layer))
        # With single tokens a mask would hide nothing, and without one the heads of a group are attended for together.
        is_single, is_grouped = tables.most_queries == 1, query.shape[1] != key.shape[1]
        attended: Tensor = self.varlen(
            *(query[0].transpose(0, 1), keys, values),
            *(tables.query_ends, tables.key_ends, tables.most_queries, tables.most_keys),
            scale=scaling,
            window_size=(-1, -1) if is_single else (-1, 0),
            enable_gqa=is_grouped,
            seqused_k=tables.lengths,
            block_table=tables.pages,
            num_splits=None if is_single and is_grouped else 1,
        )
        return attended[None]


class FlashAttention:
    """See `qwire.engine.paged_attention.PagedAttention`.

    Args:
        varlen: Attends.
    """

    def __init__(self, varlen: Varlen) -> None:
        self.varlen = varlen

    def batch(self, pool: KVPool, segments: list[Segment]) -> FlashBatch:
        """See `PagedAttention.batch`."""
        return FlashBatch(self.varlen, pool, FlashTables.of(segments, pool.page_tokens, pool.shape.device))


def unmet_demand(shape: KVShape, page_tokens: int) -> str | None:
    """Return why flash attention cannot serve a model on a CUDA device; None = it can."""
    if shape.dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in half precision only, not in {shape.dtype}"
    if torch.cuda.get_device_capability(shape.device) < _CAPABILITY:
        return "the device is older than Ampere"
    if shape.head_size % 8 or shape.head_size > _MOST_HEAD_SIZE:
        return f"heads have {shape.head_size} numbers; it takes multiples of 8 up to {_MOST_HEAD_SIZE}"
    if page_tokens % PAGE_TOKENS:
        return f"page_tokens is {page_tokens}; it takes multiples of {PAGE_TOKENS}"
    return None
