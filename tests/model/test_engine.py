"""Limits, failures and the end of an engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwire.engine.attention import RaggedBatch
from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    EngineUnavailable,
    InvalidRequest,
    NumericalError,
    QueueFull,
)
from qwire.engine.local import LocalEngine
from qwire.engine.protocol import EngineStats
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
Until = Callable[[LocalEngine, Callable[[EngineStats], bool]], Awaitable[EngineStats]]
LONG = StopParams(1000, ignore_eos=True)


def request(name: str, stop: StopParams = LONG, prompt: tuple[int, ...] = (4, 5, 6)) -> TokenRequest:
    return TokenRequest(prompt, Envelope(name), stop)


async def consume(engine: LocalEngine, request: TokenRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(request)]


def tokens(chunks: list[TokenChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


async def test_the_queue_has_a_bound(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, max_running=2, max_waiting=3)
    generations = [asyncio.create_task(consume(engine, request(str(index)))) for index in range(5)]
    await asyncio.sleep(0)
    stats = await engine.stats()
    assert (stats.running, stats.waiting, stats.waiting_capacity) == (2, 3, 3)
    with pytest.raises(QueueFull) as refused:
        await consume(engine, request("late"))
    assert refused.value.retry_after_s > 0
    assert (await engine.stats()).waiting == 3
    for index in range(5):
        assert await engine.cancel(str(index))
    await asyncio.gather(*generations, return_exceptions=True)


async def test_an_idle_engine_without_a_queue_takes_a_request(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, max_running=1, max_waiting=0)
    assert await consume(engine, request("a", StopParams(2)))


async def test_the_oldest_wait_is_told(tiny_qwen2: Path, start_engine: StartEngine, until: Until) -> None:
    engine = await start_engine(tiny_qwen2, max_running=1)
    generations = [asyncio.create_task(consume(engine, request(str(index)))) for index in range(2)]
    stats = await until(engine, lambda stats: stats.oldest_wait_s > 0 and stats.decode_tokens_per_s is not None)
    assert stats.decode_tokens_per_s
    assert 0 < stats.memory_used_bytes < stats.memory_total_bytes
    for generation in generations:
        generation.cancel()
    await asyncio.gather(*generations, return_exceptions=True)


async def test_what_does_not_fit_is_refused_before_it_waits(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(
        tiny_qwen2, kv_capacity_tokens=96, page_tokens=10, context_tokens=200, default_max_output_tokens=9
    )
    assert (await engine.stats()).kv_capacity_tokens == 100
    card = await engine.card()
    assert (card.context_tokens, card.max_output_tokens, card.default_max_output_tokens) == (200, 199, 9)
    with pytest.raises(ContextLengthExceeded):
        await consume(engine, request("a", StopParams(198)))
    with pytest.raises(CapacityExceeded):
        await consume(engine, request("a", StopParams(98)))
    with pytest.raises(InvalidRequest, match=r"tokens\.ids"):
        await consume(engine, request("a", StopParams(9), prompt=(1000,)))
    assert (await engine.stats()).waiting == 0
    assert await consume(engine, request("a", StopParams(97)))


async def test_a_prompt_waits_for_memory(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, kv_capacity_tokens=96)
    prompt = tuple(range(4, 54))
    generations = [asyncio.create_task(consume(engine, request(str(i), StopParams(30), prompt))) for i in range(3)]
    await asyncio.sleep(0)
    stats = await engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used_tokens, stats.kv_capacity_tokens) == (1, 2, 64, 96)
    assert all([chunk for chunk in chunks if chunk.finish] for chunks in await asyncio.gather(*generations))
    assert (await engine.stats()).kv_used_tokens == 0


async def test_an_id_names_one_generation(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2)
    generation = engine.generate(request("same"))
    await anext(generation)
    with pytest.raises(InvalidRequest, match="request_id"):
        await consume(engine, request("same"))
    assert len((await anext(generation)).token_ids) > 0
    await generation.aclose()


async def test_a_slow_consumer_loses_nothing_and_gets_larger_chunks(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until
) -> None:
    engine = await start_engine(tiny_qwen2)
    stop = StopParams(40, ignore_eos=True)
    quick = await consume(engine, request("quick", stop))
    slow: list[TokenChunk] = []
    async for chunk in engine.generate(request("slow", stop)):
        slow.append(chunk)
        await until(engine, lambda stats: stats.running == 0)
    assert len(slow[0].token_ids) < 40
    assert [len(chunk.token_ids) for chunk in slow[1:]] == [40 - len(slow[0].token_ids)]
    assert tokens(slow) == tokens(quick)


@pytest.mark.parametrize("top_logprobs", [None, 5])
@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9)])
async def test_logits_that_are_not_finite_fail_their_own_request_only(
    tiny_qwen2: Path,
    start_engine: StartEngine,
    copy_checkpoint: Callable[..., Path],
    sampling: SamplingParams,
    top_logprobs: int | None,
) -> None:
    def of(name: str, prompt: tuple[int, ...]) -> TokenRequest:
        stop = StopParams(20, ignore_eos=True)
        return TokenRequest(prompt, Envelope(name), stop, sampling, top_logprobs=top_logprobs)

    clean = await start_engine(tiny_qwen2)
    healthy = [of("a", (4, 5, 6)), of("b", tuple(range(200, 240))), of("c", (9,))]
    expected = [tokens(await consume(clean, request)) for request in healthy]
    poison = next(token_id for token_id in range(500, 1000) if not any(token_id in output for output in expected))
    folder = copy_checkpoint(tiny_qwen2, without="model.safetensors")
    weights = load_file(tiny_qwen2 / "model.safetensors")
    weights["model.embed_tokens.weight"][poison] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    engine = await start_engine(folder, max_step_tokens=16)
    assert (await engine.stats()).non_finite_weights == 64
    ill = [of("short", (poison,)), of("long", (*range(100, 130), poison, *range(130, 140)))]
    results = await asyncio.gather(*(consume(engine, request) for request in (*healthy, *ill)), return_exceptions=True)
    assert [type(result) for result in results[3:]] == [NumericalError, NumericalError]
    assert [tokens(result) for result in results[:3] if isinstance(result, list)] == expected
    assert (await engine.stats()).kv_used_tokens == 0


async def test_closing_ends_what_runs_and_waits(tiny_qwen2: Path, start_engine: StartEngine, until: Until) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    assert "qwire-engine" not in threads
    engine = await start_engine(tiny_qwen2, max_running=1)
    generations = [asyncio.create_task(consume(engine, request(str(index)))) for index in range(3)]
    await until(engine, lambda stats: stats.steps >= 3)
    await asyncio.gather(engine.close(), engine.close())
    results = await asyncio.gather(*generations, return_exceptions=True)
    assert [type(result) for result in results] == [EngineUnavailable] * 3
    assert "qwire-engine" not in {thread.name for thread in threading.enumerate()}
    await engine.close()
    for refused in (engine.card(), engine.stats(), consume(engine, request("late"))):
        with pytest.raises(EngineUnavailable):
            await refused
    assert not await engine.cancel("0")


async def test_a_failing_step_ends_the_engine_and_tells_everybody(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until
) -> None:
    engine = await start_engine(tiny_qwen2, max_running=1)
    generations = [asyncio.create_task(consume(engine, request(str(index)))) for index in range(2)]
    await until(engine, lambda stats: stats.steps >= 3)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RaggedBatch, "attend", broken)
        results = await asyncio.gather(*generations, return_exceptions=True)
    assert [type(result) for result in results] == [EngineUnavailable] * 2
    with pytest.raises(EngineUnavailable):
        await engine.stats()
    with pytest.raises(EngineUnavailable):
        await engine.card()
    await engine.close()
