"""A generation that nobody wants any more stops, wherever it is, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from qwire.client import AsyncClient, Cancelled, DeadlineExceeded, GenerationOptions, QwireError
from tests.cluster.conftest import Cluster

LONG = GenerationOptions(model="tiny-a", max_output_tokens=3000, ignore_eos=True)
THOUSAND = GenerationOptions(model="tiny-a", max_output_tokens=1000, ignore_eos=True)


async def settle(cluster: Cluster) -> None:
    """Wait until the engine holds nothing."""
    deadline = time.monotonic() + 20
    while True:
        (stats,) = await cluster.stats("tiny-a")
        if (stats.running, stats.waiting, stats.kv_used_tokens) == (0, 0, 0):
            return
        assert time.monotonic() < deadline, stats
        await asyncio.sleep(0.02)


async def test_leaving_a_stream_stops_decoding(cluster: Cluster, client: AsyncClient) -> None:
    await settle(cluster)
    async with client.stream("endless", **LONG) as stream:
        async for _ in stream.text_stream:
            break
    await settle(cluster)
    (before,) = await cluster.stats("tiny-a")
    await asyncio.sleep(0.2)
    (after,) = await cluster.stats("tiny-a")
    assert after.steps - before.steps <= 2  # health probes take one step each


async def test_cancel_by_id_ends_the_call_of_someone_else(cluster: Cluster, client: AsyncClient) -> None:
    async with client.stream("endless", **LONG) as stream:
        async for _ in stream:
            break
        assert stream.started is not None
        assert await client.cancel(stream.started.generation_id)
        with pytest.raises(Cancelled):
            await stream.generation()
        assert not await client.cancel(stream.started.generation_id)
    await settle(cluster)


async def test_deadline_reaches_the_engine(cluster: Cluster, client: AsyncClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await client.generate("endless", timeout_s=0.5, **LONG)
    await settle(cluster)


async def test_200_random_cancels_leave_nothing(cluster: Cluster, client: AsyncClient) -> None:
    chance = random.Random(11)  # noqa: S311 - a schedule, not a secret

    async def one(number: int) -> None:
        prompt = "x" * chance.choice([1, 200, 900])
        delay_s = chance.choice([0.0, 0.001, 0.05, chance.uniform(0, 1.5)])
        try:
            async with asyncio.timeout(delay_s):
                if number % 2:
                    await client.generate(prompt, **THOUSAND)
                else:
                    async with client.stream(prompt, **THOUSAND) as stream:
                        await stream.generation()
        except (TimeoutError, QwireError):
            pass

    await asyncio.gather(*(one(number) for number in range(200)))
    await settle(cluster)
    answer = await client.generate("still there?", model="tiny-a", max_output_tokens=3, ignore_eos=True)
    assert answer.finished.usage.output_tokens == 3
