"""Ending a generation early, wherever it is, and what is left behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import DeadlineExceeded, EngineError, GenerationCancelled
from qwire.engine.local import LocalEngine
from qwire.engine.protocol import EngineStats
from qwire.engine.request import Envelope, StopParams, TokenRequest

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
Until = Callable[[LocalEngine, Callable[[EngineStats], bool]], Awaitable[EngineStats]]
LONG = StopParams(1000, ignore_eos=True)


def request(name: str, prompt_tokens: int = 4, stop: StopParams = LONG) -> TokenRequest:
    return TokenRequest(tuple(range(4, 4 + prompt_tokens)), Envelope(name), stop)


async def consume(
    engine: LocalEngine, request: TokenRequest, chunks: list[TokenChunk] | None = None
) -> list[TokenChunk]:
    chunks = [] if chunks is None else chunks
    async for chunk in engine.generate(request):
        chunks.append(chunk)
    return chunks


async def idle(engine: LocalEngine, until: Until) -> EngineStats:
    """Wait until nothing is live, and until the step that was under way then has ended."""
    before = await until(engine, lambda stats: stats.running == stats.waiting == 0)
    await asyncio.sleep(0.05)
    stats = await engine.stats()
    assert stats.steps <= before.steps + 1
    return stats


async def end_by_cancel(engine: LocalEngine, generation: asyncio.Task[list[TokenChunk]]) -> None:
    assert await engine.cancel("victim")
    with pytest.raises(GenerationCancelled):
        await generation


async def end_by_leaving(engine: LocalEngine, generation: asyncio.Task[list[TokenChunk]]) -> None:
    del engine
    generation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await generation


@pytest.mark.parametrize("end", [end_by_cancel, end_by_leaving])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_running_generation_ends_within_two_steps(
    tiny_qwen2: Path,
    start_engine: StartEngine,
    until: Until,
    phase: str,
    end: Callable[[LocalEngine, asyncio.Task[list[TokenChunk]]], Awaitable[None]],
) -> None:
    engine = await start_engine(tiny_qwen2, max_step_tokens=16)
    victim = request("victim", 900 if phase == "prefill" else 4)
    generation = asyncio.create_task(consume(engine, victim))
    before = await until(engine, lambda stats: stats.steps >= 3)
    if phase == "prefill":
        assert before.running_tokens == 900
    before = await engine.stats()
    await end(engine, generation)
    after = await idle(engine, until)
    assert after.steps <= before.steps + 2
    assert after.kv_used_tokens == 0


async def test_a_waiting_generation_ends_without_a_step(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until
) -> None:
    engine = await start_engine(tiny_qwen2, max_running=1)
    front = asyncio.create_task(consume(engine, request("front")))
    await until(engine, lambda stats: stats.running == 1)
    generation = asyncio.create_task(consume(engine, request("victim")))
    stats = await until(engine, lambda stats: stats.waiting == 1)
    assert stats.waiting_tokens == 1004
    assert 4 <= stats.kv_used_tokens <= 1004
    await end_by_cancel(engine, generation)
    assert (await engine.stats()).waiting == 0
    assert not front.done()
    assert await engine.cancel("front")
    with pytest.raises(GenerationCancelled):
        await front


async def test_leaving_after_some_chunks_ends_the_generation(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until
) -> None:
    engine = await start_engine(tiny_qwen2)
    generation: AsyncGenerator[TokenChunk, None] = engine.generate(request("victim"))
    await anext(generation)
    before = await engine.stats()
    await generation.aclose()
    assert (await idle(engine, until)).steps <= before.steps + 2


async def test_no_token_reaches_a_later_generation_of_the_same_name(
    tiny_qwen2: Path, start_engine: StartEngine
) -> None:
    engine = await start_engine(tiny_qwen2)
    later = request("same", 20, StopParams(5, ignore_eos=True))
    expected = [token_id for chunk in await consume(engine, later) for token_id in chunk.token_ids]
    generation: AsyncGenerator[TokenChunk, None] = engine.generate(request("same"))
    await anext(generation)
    # While the event loop stands still the engine goes on, and its tokens wait for the loop.
    time.sleep(0.1)  # noqa: ASYNC251 - on purpose
    await generation.aclose()
    assert [token_id for chunk in await consume(engine, later) for token_id in chunk.token_ids] == expected


async def test_cancelling_what_does_not_run_says_so(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2)
    assert not await engine.cancel("nobody")
    await consume(engine, request("a", stop=StopParams(1)))
    assert not await engine.cancel("a")


async def test_two_hundred_random_cancels_leave_nothing_behind(
    tiny_qwen3: Path, start_engine: StartEngine, until: Until
) -> None:
    engine = await start_engine(tiny_qwen3, max_running=8, max_waiting=200, max_step_tokens=32)
    random_source = random.Random(3)  # noqa: S311 - the same workload each time
    threads = set(threading.enumerate())
    ended = {"cancelled": 0, "left": 0}

    async def live_and_die(index: int) -> None:
        subject = request(str(index), random_source.choice((1, 5, 40, 300)))
        generation = asyncio.create_task(consume(engine, subject))
        await asyncio.sleep(random_source.random() * 0.5)
        if random_source.random() < 0.5:
            await engine.cancel(str(index))
            with pytest.raises(GenerationCancelled):
                await generation
            ended["cancelled"] += 1
        else:
            generation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await generation
            ended["left"] += 1

    await asyncio.gather(*(live_and_die(index) for index in range(200)))
    assert sum(ended.values()) == 200
    stats = await idle(engine, until)
    assert (stats.running, stats.waiting, stats.kv_used_tokens) == (0, 0, 0)
    assert (stats.running_tokens, stats.waiting_tokens, stats.oldest_wait_s) == (0, 0, 0.0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert set(threading.enumerate()) <= threads  # those of earlier tests may have ended
    assert await consume(engine, request("after", stop=StopParams(3)))


@pytest.mark.parametrize("where", ["past", "queue", "prefill", "decode"])
async def test_a_deadline_ends_a_generation_wherever_it_is(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until, where: str
) -> None:
    engine = await start_engine(tiny_qwen2, max_running=1, max_step_tokens=4)
    front = None
    if where == "queue":
        front = asyncio.create_task(consume(engine, request("front")))
        await until(engine, lambda stats: stats.running == 1)
    late = request("late", 900 if where == "prefill" else 4)
    deadline_unix_ns = time.time_ns() + (0 if where == "past" else 50_000_000)
    late = replace(late, envelope=replace(late.envelope, deadline_unix_ns=deadline_unix_ns))
    chunks: list[TokenChunk] = []
    with pytest.raises(DeadlineExceeded):
        await consume(engine, late, chunks)
    assert time.time_ns() >= deadline_unix_ns
    assert bool(chunks) == (where == "decode")
    if front is not None:
        assert not front.done()
        await engine.cancel("front")
        with pytest.raises(EngineError):
            await front
    stats = await idle(engine, until)
    assert stats.kv_used_tokens == 0


async def test_what_only_waits_can_be_taken_back_and_nothing_else(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until
) -> None:
    engine = await start_engine(tiny_qwen2, max_running=1, max_step_tokens=16)
    # Its prompt takes many steps: it is computed long before there is anything of it.
    reading = asyncio.create_task(consume(engine, request("reading", 900, StopParams(500, ignore_eos=True))))
    await until(engine, lambda stats: stats.running == 1)
    waiting = asyncio.create_task(consume(engine, request("waiting")))
    await until(engine, lambda stats: stats.waiting == 1)
    assert not await engine.cancel("reading", only_waiting=True)
    assert not await engine.cancel("nobody", only_waiting=True)
    assert await engine.cancel("waiting", only_waiting=True)
    with pytest.raises(GenerationCancelled):
        await waiting
    assert sum(len(chunk.token_ids) for chunk in await reading) == 500
    await idle(engine, until)
