"""Hundreds of random requests at once in little memory: each ends as it should, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from qwire.engine.errors import DeadlineExceeded, GenerationCancelled
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from tests.support.log_lines import collected_log_lines

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
REQUESTS = 500


def request(index: int, source: random.Random) -> TokenRequest:
    """Make a request of up to 200 tokens; every second one begins with one of three texts."""
    length = source.choice((1, 3, 20, 60, 120))
    text = [source.randrange(4, 1000) for _ in range(length)]
    if source.random() < 0.5:
        text = [*range(100 * (index % 3) + 100, 100 * (index % 3) + 140), *text]
    given = source.choice((0, 0, 0, 2))
    late_unix_ns = time.time_ns() + source.randrange(2_000_000_000)
    return TokenRequest(
        tuple(text),
        Envelope(str(index), source.choice((-1, 0, 0, 1)), late_unix_ns if source.random() < 0.1 else None),
        StopParams(source.randrange(given + 1, 40), ignore_eos=source.random() < 0.5),
        SamplingParams(temperature=source.choice((0.0, 10.0)), top_k=source.choice((0, 20)), seed=index),
        tuple(source.randrange(4, 1000) for _ in range(given)),
    )


@pytest.mark.parametrize("speculation", ["none", "prompt-lookup", "draft-model"])
async def test_random_requests_in_little_memory(tiny_qwen2: Path, start_engine: StartEngine, speculation: str) -> None:
    drafting: dict[str, Any] = {"draft": tiny_qwen2} if speculation == "draft-model" else {}
    source = random.Random(4)  # noqa: S311 - the same workload each time
    engine = await start_engine(
        tiny_qwen2,
        kv_capacity_tokens=240,
        page_tokens=8,
        max_running=8,
        max_waiting=2 * REQUESTS,  # low priority has half of it
        max_step_tokens=32,
        speculation=speculation,
        lookup_least_tokens=1,
        **drafting,
    )
    ends: Counter[str] = Counter()

    async def live(subject: TokenRequest, fate: float) -> None:
        output: list[int] = []
        cut = int(fate * 100)  # few get so far
        try:
            async for chunk in engine.generate(subject):
                output += chunk.token_ids
                if fate < 0.1 and len(output) > cut:
                    await engine.cancel(subject.envelope.request_id)
                elif fate < 0.2 and len(output) > cut - 10:
                    ends["left"] += 1
                    return
                if chunk.finish is not None:
                    assert chunk.finish.cached_prompt_tokens <= len(subject.prompt_token_ids)
                    assert len(output) <= subject.stop.max_output_tokens - len(subject.output_token_ids)
                    ends["finished"] += 1
        except GenerationCancelled:
            ends["cancelled"] += 1
        except DeadlineExceeded:
            assert subject.envelope.deadline_unix_ns is not None
            ends["late"] += 1

    with collected_log_lines() as lines:
        async with asyncio.TaskGroup() as group:
            for index in range(REQUESTS):
                group.create_task(live(request(index, source), source.random()))
                if index % 10 == 0:
                    await asyncio.sleep(0.01)
    stats = await engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used_tokens) == (0, 0, 0)
    engine._cache.check_integrity()  # pyright: ignore[reportPrivateUsage] - only an idle engine's may be looked at
    assert lines.of("generation_preempted")
    assert not lines.of("engine_died")
    assert sum(ends.values()) == REQUESTS
    assert all(ends[end] for end in ("finished", "left", "cancelled", "late"))
