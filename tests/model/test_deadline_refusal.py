"""An engine that has seen how fast it is refuses what it cannot do in time, at once."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qwire.engine.errors import DeadlineExceeded, DeadlineUnattainable
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
PROMPT_TOKENS = 1900


def asking(name: str, within_s: float) -> TokenRequest:
    """Ask for one token after a long prompt that nobody has asked about before."""
    words = random.Random(name)  # noqa: S311 - a workload, no secret
    prompt = tuple(words.randrange(4, 1000) for _ in range(PROMPT_TOKENS))
    deadline = time.time_ns() + int(within_s * 1e9)
    return TokenRequest(prompt, Envelope(name, deadline_unix_ns=deadline), StopParams(1, ignore_eos=True))


async def seconds_for(engine: LocalEngine, request: TokenRequest) -> float:
    began = time.monotonic()
    async for _ in engine.generate(request):
        pass
    return time.monotonic() - began


async def test_a_prompt_that_takes_longer_than_its_caller_waits_is_refused_unread(
    tiny_qwen2: Path, start_engine: StartEngine
) -> None:
    engine = await start_engine(tiny_qwen2, max_step_tokens=64)
    # Before anything was measured nobody is refused.
    taken = [await seconds_for(engine, asking(f"first {number}", 600.0)) for number in range(3)]
    steps = (await engine.stats()).steps
    refusal: DeadlineExceeded | None = None
    # The first step of a prompt is its fastest, so that it would be done at that pace in a fifth of its time.
    for attempt in range(10):
        with pytest.raises(DeadlineExceeded) as refused:
            await seconds_for(engine, asking(f"hurried {attempt}", min(taken) / 10))
        refusal = refused.value
        if isinstance(refusal, DeadlineUnattainable):  # else this process was not given the time to ask
            break
    assert isinstance(refusal, DeadlineUnattainable)
    assert refusal.left_s < refusal.estimate_s < max(taken)
    assert (await engine.stats()).steps == steps
    await seconds_for(engine, asking("patient", 100 * max(taken)))
