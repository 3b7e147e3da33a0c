"""Compares an attention with torch's, before anything is served by it."""

from __future__ import annotations

import torch

from qwire.engine.attention import RaggedBatch
from qwire.engine.kv_pool import KVPool, KVShape
from qwire.engine.paged_attention import PagedAttention
from qwire.engine.segment import Segment

TOLERANCE = 0.02
"""The most that numbers of about 1 may differ: what half precision leaves of eight bits, several times over."""


@torch.inference_mode()
def deviation(attention: PagedAttention, shape: KVShape, heads: int, page_tokens: int) -> float:
    """Return the largest difference from torch's attention over prompts, parts of prompts and single tokens.

    Args:
        attention: What to compare.
        shape: Of the model's keys and values.
        heads: Query heads of a layer.
        page_tokens: Tokens of a page.

    Raises:
        RuntimeError: It cannot be computed on this device.
    """
    half, two = page_tokens // 2, 2 * page_tokens
    # Pages out of order, full and partly filled ones; a prompt of one token and one of more than a page.
    prompts = [Segment((5, 2), 0, page_tokens + 3), Segment((0,), 0, 1), Segment((3, 1, 6), 0, two + half)]
    parts = [Segment((5, 2), page_tokens + 3, 7), Segment((0,), 1, half), Segment((3, 1, 6), two + half, 1)]
    single = [Segment((5, 2), page_tokens + 10, 1), Segment((0,), half + 1, 1), Segment((3, 1, 6), two + half + 1, 1)]
    one_layer = KVShape(1, shape.kv_heads, shape.head_size, shape.dtype, shape.device)
    pools = [KVPool(one_layer, pages=7, page_tokens=page_tokens) for _ in range(2)]
    generator = torch.Generator(shape.device).manual_seed(1)
    most = 0.0
    for segments in (prompts, parts, single):
        tokens = sum(segment.length for segment in segments)
        query, key, value = (
            torch.randn(1, count, tokens, shape.head_size, generator=generator, device=shape.device).to(shape.dtype)
            for count in (heads, shape.kv_heads, shape.kv_heads)
        )
        ours, torchs = (
            RaggedBatch(pool, segments, paged).attend(0, query, key, value, shape.head_size**-0.5)
            for pool, paged in zip(pools, (attention, None), strict=True)
        )
        difference = (ours.float() - torchs.float()).abs().max().item()
        # Of a number that is none no comparison holds, so `max` would lose it.
        most = max(most, difference) if difference == difference else float("inf")  # noqa: PLR0124
    return most
