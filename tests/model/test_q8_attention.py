"""Attention by the compiled kernel, against scaled dot products in double precision."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwire.engine.attention import RaggedBatch
from qwire.engine.kv_pool import KVPool, KVShape
from qwire.engine.paged_attention import PagedAttention
from qwire.engine.q8.build import build
from qwire.engine.q8.kernel import Q8Arithmetic
from qwire.engine.segment import Segment

pytestmark = pytest.mark.model

PAGE_TOKENS = 16
HEADS = 14
SHAPE = KVShape(layers=2, kv_heads=2, head_size=64, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> Q8Arithmetic:
    return Q8Arithmetic(build(tmp_path_factory.getbasetemp() / "q8-kernels"))


def filled_pool(pages: int) -> KVPool:
    pool = KVPool(SHAPE, pages, PAGE_TOKENS)
    for layer in range(SHAPE.layers):
        for half in pool.layer(layer):
            half.copy_(torch.randn_like(half))
    return pool


def segments(lengths: list[tuple[int, int]], pages: int) -> list[Segment]:
    """Scatter sequences over the pool; each is given by its tokens and how many of them are new."""
    free = list(range(pages))
    random.Random(1).shuffle(free)  # noqa: S311 - any order will do
    made: list[Segment] = []
    for tokens, new in lengths:
        own = tuple(free.pop() for _ in range(-(-tokens // PAGE_TOKENS)))
        made.append(Segment(own, tokens - new, new))
    return made


@pytest.mark.parametrize(
    "lengths",
    [
        [(1, 1)],
        [(16, 1), (17, 1), (33, 1)],
        [(300, 1), (5, 5), (40, 1), (31, 7), (2, 1)],
        [(n * 9 + 1, 1) for n in range(32)],
    ],
)
def test_it_is_that_of_double_precision(arithmetic: Q8Arithmetic, lengths: list[tuple[int, int]]) -> None:
    torch.manual_seed(len(lengths))
    pool = filled_pool(pages=400)
    batch = segments(lengths, 400)
    tokens = sum(segment.length for segment in batch)
    # As the decoder has them: queries, keys and values of a token side by side.
    heads = torch.randn(tokens, HEADS + 2 * SHAPE.kv_heads, SHAPE.head_size)
    counts = (HEADS, SHAPE.kv_heads, SHAPE.kv_heads)
    query, key, value = heads.transpose(0, 1)[None].split(counts, dim=1)
    scaling = SHAPE.head_size**-0.5
    for layer in range(SHAPE.layers):
        result = RaggedBatch(pool, batch, arithmetic.attention).attend(layer, query, key, value, scaling)
        torch.testing.assert_close(result, RaggedBatch(pool, batch).attend(layer, query, key, value, scaling))
        keys, values = (half.double() for half in pool.layer(layer))
        place = 0
        for segment in batch:
            slots = torch.tensor([p * PAGE_TOKENS + n for p in segment.pages for n in range(PAGE_TOKENS)])
            seen = slots[: segment.end]
            sees = torch.arange(segment.end) <= torch.arange(segment.start, segment.end)[:, None]
            own = slice(place, place + segment.length)
            expected = scaled_dot_product_attention(
                query[:, :, own].double(),
                keys[seen].transpose(0, 1)[None],
                values[seen].transpose(0, 1)[None],
                attn_mask=sees,
                scale=scaling,
                enable_gqa=True,
            )
            torch.testing.assert_close(result[:, own], expected.transpose(1, 2).float(), rtol=1e-5, atol=1e-5)
            place += segment.length


@pytest.mark.parametrize("head_size", [16, 36, 64, 128])
@pytest.mark.parametrize("page_tokens", [1, 5, 16])
def test_a_prompt_attends_the_same_however_it_is_cut(
    arithmetic: Q8Arithmetic, head_size: int, page_tokens: int
) -> None:
    torch.manual_seed(head_size + page_tokens)
    tokens, heads, kv_heads = 150, 6, 2
    shape = KVShape(layers=1, kv_heads=kv_heads, head_size=head_size, dtype=torch.float32, device=torch.device("cpu"))
    pages = tuple(torch.randperm(-(-tokens // page_tokens)).tolist())
    query = torch.randn(1, heads, tokens, head_size)
    key, value = torch.randn(2, 1, kv_heads, tokens, head_size)

    def attend(lengths: list[int], paged: PagedAttention | None = arithmetic.attention) -> Tensor:
        pool, parts, start = KVPool(shape, len(pages), page_tokens), list[Tensor](), 0
        for half in pool.layer(0):
            half.fill_(torch.nan)  # what is not written yet must not be seen
        for length in lengths:
            segment = Segment(pages[: -(-(start + length) // page_tokens)], start, length)
            own = slice(start, start + length)
            ragged = RaggedBatch(pool, [segment], paged)
            parts.append(ragged.attend(0, query[:, :, own], key[:, :, own], value[:, :, own], head_size**-0.5))
            start += length
        return torch.cat(parts, dim=1)

    whole = attend([tokens])
    torch.testing.assert_close(whole, attend([tokens], None), rtol=1e-4, atol=1e-5)
    for lengths in ([1] * tokens, [32, 118], [31, 1, 1, 33, 84], [149, 1]):
        assert torch.equal(attend(lengths), whole), lengths


def test_a_token_attends_the_same_beside_any_other(arithmetic: Q8Arithmetic) -> None:
    torch.manual_seed(9)
    pool = filled_pool(pages=100)
    batch = segments([(100, 1), (20, 1), (250, 1)], 100)
    query = torch.randn(1, HEADS, 3, SHAPE.head_size)
    key, value = torch.randn(2, 1, SHAPE.kv_heads, 3, SHAPE.head_size)
    together = RaggedBatch(pool, batch, arithmetic.attention).attend(0, query, key, value, 0.125)
    for place, segment in enumerate(batch):
        one = slice(place, place + 1)
        ragged = RaggedBatch(pool, [segment], arithmetic.attention)
        alone = ragged.attend(0, query[:, :, one], key[:, :, one], value[:, :, one], 0.125)
        assert torch.equal(alone[:, 0], together[:, place])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sequence(arithmetic: Q8Arithmetic, value: float) -> None:
    torch.manual_seed(10)
    pool = filled_pool(pages=20)
    batch = segments([(40, 1), (40, 1)], 20)
    query = torch.randn(1, HEADS, 2, SHAPE.head_size)
    query[0, 3, 1, 5] = value
    key, values = torch.randn(2, 1, SHAPE.kv_heads, 2, SHAPE.head_size)
    result = RaggedBatch(pool, batch, arithmetic.attention).attend(0, query, key, values, 0.125)
    assert result[0, 0].isfinite().all()
    assert not result[0, 1, 3].isfinite().any()
