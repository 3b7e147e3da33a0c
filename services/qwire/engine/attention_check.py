"""Compares an attention with torch's, before anything is served by it."""

from __future__ import annotations

import math

import torch

from qwire.engine.attention import RaggedBatch
from qwire.engine.kv_pool import KVPool, KVShape
from qwire.engine.paged_attention import PagedAttention
from qwire.engine.segment import Segment

TOLERANCE = 2**-6
"""The most that `deviation` may be: twice what rounding to the eight bits of bfloat16 leaves of a number."""
_PAGES = 24


@torch.inference_mode()
def deviation(attention: PagedAttention, shape: KVShape, heads: int, page_tokens: int) -> float:
    """Return the largest difference from torch's attention, `|ours - torch's| / (1 + |torch's|)`; NaN = infinite.

    Compared are prompts, parts of prompts, few tokens of two long sequences, and single tokens, whose pages are out of
    order and partly filled.

    Args:
        attention: What to compare.
        shape: Of the model's keys and values.
        heads: Query heads of a layer.
        page_tokens: Tokens of a page.

    Raises:
        RuntimeError: It cannot be computed on this device.
    """
    one_layer = KVShape(1, shape.kv_heads, shape.head_size, shape.dtype, shape.device)
    pools = [KVPool(one_layer, _PAGES, page_tokens) for _ in range(2)]
    generator = torch.Generator(shape.device).manual_seed(1)
    most = 0.0
    for segments in _steps(page_tokens):
        tokens = sum(segment.length for segment in segments)
        query, key, value = (
            torch.randn(1, count, tokens, shape.head_size, generator=generator, device=shape.device).to(shape.dtype)
            for count in (heads, shape.kv_heads, shape.kv_heads)
        )
        ours, torchs = (
            RaggedBatch(pool, segments, paged).attend(0, query, key, value, shape.head_size**-0.5).float()
            for pool, paged in zip(pools, (attention, None), strict=True)
        )
        difference = ((ours - torchs).abs() / (1 + torchs.abs())).max().item()
        most = max(most, math.inf if math.isnan(difference) else difference)
    return most


def _steps(page_tokens: int) -> list[list[Segment]]:
    """Return steps of three sequences, each of which goes on from the step before."""
    pages = [tuple(range(_PAGES - 3, 1, -2)), (0,), tuple(range(_PAGES - 2, 0, -2))]
    lengths = [
        [9 * page_tokens + 3, 1, page_tokens],
        [7, page_tokens // 2, 8 * page_tokens + 5],
        [2, 0, 3],
        [1, 1, 1],
    ]
    steps: list[list[Segment]] = []
    begun = [0, 0, 0]
    for step in lengths:
        ends = [start + length for start, length in zip(begun, step, strict=True)]
        steps.append(
            [
                Segment(own[: -(-end // page_tokens)], start, length)
                for own, start, length, end in zip(pages, begun, step, ends, strict=True)
                if length
            ]
        )
        begun = ends
    return steps
