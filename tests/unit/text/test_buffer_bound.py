"""What streams hold for callers that do not read is counted as what it takes."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Callable

import pytest

from qwire.engine.chunk import TokenChunk, TokenLogprobs
from qwire.text.read_ahead import BufferBudget, ReadAhead


def plain(number: int) -> TokenChunk:
    return TokenChunk((100_000 + number,))


def with_logprobs(number: int) -> TokenChunk:
    top = tuple((100_000 + number + place, -0.5 * place - number) for place in range(5))
    return TokenChunk((100_000 + number,), logprobs=(TokenLogprobs(-0.25 * number, top),))


@pytest.mark.parametrize("make", [plain, with_logprobs])
async def test_what_is_held_is_counted_as_what_it_takes(make: Callable[[int], TokenChunk]) -> None:
    all_read = asyncio.Event()

    async def chunks() -> AsyncGenerator[TokenChunk]:
        for number in range(2000):
            yield make(number)
        all_read.set()
        await asyncio.Event().wait()

    budget = BufferBudget(2**30, 2**30)
    async with asyncio.timeout(20), ReadAhead(chunks(), budget) as ahead:
        tracemalloc.start()
        try:
            await all_read.wait()
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert 0.75 < budget.used_bytes / taken < 1.25
        held = await ahead.next()
        assert held is not None
        assert held.token_ids == tuple(range(100_000, 102_000))
        assert len(held.logprobs) == (2000 if make is with_logprobs else 0)
    assert budget.used_bytes == 0


async def test_tokens_that_come_one_by_one_take_little_more_than_at_once() -> None:
    all_read = asyncio.Event()

    async def chunks(size: int) -> AsyncGenerator[TokenChunk]:
        for first in range(0, 6400, size):
            yield TokenChunk(tuple(range(first, first + size)))
        all_read.set()
        await asyncio.Event().wait()

    used: list[int] = []
    for size in (1, 6400):
        budget = BufferBudget(2**30, 2**30)
        async with asyncio.timeout(20), ReadAhead(chunks(size), budget):
            await all_read.wait()
            used.append(budget.used_bytes)
        all_read.clear()
    assert used[0] < 1.1 * used[1]
