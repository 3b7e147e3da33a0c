"""Output does not depend on pages: their size, who shares them, and how often a sequence lost its own."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from qwire.engine.chunk import Finish, TokenChunk
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from tests.support.log_lines import collected_log_lines

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
OUTPUT_TOKENS = 40
STOP = StopParams(OUTPUT_TOKENS, ignore_eos=True)
SHORT_TOKENS = 144
"""A pool that holds the largest request, and not much more."""


@functools.cache
def prompts() -> list[tuple[int, ...]]:
    """Return prompts of which some begin alike, one begins another, and two are the same."""
    random_source = random.Random(7)  # noqa: S311 - the same prompts each time

    def text(length: int) -> tuple[int, ...]:
        return tuple(random_source.randrange(4, 1000) for _ in range(length))

    common = text(60)
    same = common + text(20)
    return [text(1), text(17), same, same, common, *(common + text(length) for length in (1, 4, 30, 40)), text(90)]


@functools.cache
def reference(folder: Path) -> list[tuple[int, ...]]:
    """Return what transformers generates for each prompt."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    options = {"do_sample": False, "max_new_tokens": OUTPUT_TOKENS, "eos_token_id": None, "pad_token_id": 0}
    outputs: list[tuple[int, ...]] = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        outputs.append(tuple(output[0, len(prompt) :].tolist()))
    return outputs


def requests(sampling: SamplingParams) -> list[TokenRequest]:
    return [TokenRequest(prompt, Envelope(str(index)), STOP, sampling) for index, prompt in enumerate(prompts())]


async def collect(engine: LocalEngine, request: TokenRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(request)]


async def output_of(engine: LocalEngine, request: TokenRequest) -> tuple[int, ...]:
    return tuple(token_id for chunk in await collect(engine, request) for token_id in chunk.token_ids)


async def together(engine: LocalEngine, requests: list[TokenRequest]) -> list[tuple[int, ...]]:
    return await asyncio.gather(*(output_of(engine, request) for request in requests))


async def finish_of(engine: LocalEngine, name: str, prompt: tuple[int, ...], **options: Any) -> Finish:
    chunks = await collect(engine, TokenRequest(prompt, Envelope(name), StopParams(3), **options))
    finish = chunks[-1].finish
    assert finish is not None
    return finish


@pytest.mark.parametrize("prefix_reuse", [True, False])
@pytest.mark.parametrize("page_tokens", [1, 7, 16])
async def test_greedy_output_is_that_of_generate_where_memory_is_short(
    tiny_model: Path, start_engine: StartEngine, page_tokens: int, *, prefix_reuse: bool
) -> None:
    expected = reference(tiny_model)
    for max_step_tokens in (16, 128):
        engine = await start_engine(
            tiny_model,
            kv_capacity_tokens=SHORT_TOKENS,
            page_tokens=page_tokens,
            prefix_reuse=prefix_reuse,
            max_step_tokens=max_step_tokens,
        )
        with collected_log_lines() as lines:
            assert await together(engine, requests(SamplingParams())) == expected
            assert await together(engine, requests(SamplingParams())[::-1]) == expected[::-1]
        assert lines.of("generation_preempted")
        assert (await engine.stats()).kv_used_tokens == 0


@pytest.mark.parametrize("page_tokens", [3, 16])
async def test_seeded_output_is_the_same_alone_preempted_and_resumed(
    tiny_model: Path, start_engine: StartEngine, page_tokens: int
) -> None:
    subject = requests(SamplingParams(temperature=10.0, top_p=0.9, seed=5, presence_penalty=1.0))
    roomy = await start_engine(tiny_model, prefix_reuse=False)
    expected = [await output_of(roomy, request) for request in subject]
    assert len(set(expected)) == len(subject) - 1
    short = await start_engine(tiny_model, kv_capacity_tokens=SHORT_TOKENS, page_tokens=page_tokens, max_step_tokens=48)
    with collected_log_lines() as lines:
        assert await together(short, subject) == expected
        for cut in (1, OUTPUT_TOKENS // 2, OUTPUT_TOKENS - 1):
            resumed = [
                replace(request, output_token_ids=output[:cut])
                for request, output in zip(subject, expected, strict=True)
            ]
            assert await together(short, resumed) == [output[cut:] for output in expected]
    assert lines.of("generation_preempted")


async def test_reused_prompt_tokens_are_told(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, page_tokens=10)
    prompt = prompts()[-1]  # 90 tokens
    assert (await finish_of(engine, "a", prompt)).cached_prompt_tokens == 0
    # The last token is always computed: its logits are needed.
    assert (await finish_of(engine, "b", prompt)).cached_prompt_tokens == 80
    assert (await finish_of(engine, "c", (*prompt, 5))).cached_prompt_tokens == 90
    assert (await finish_of(engine, "d", (*prompt[:25], 5, *prompt[26:]))).cached_prompt_tokens == 20
    assert (await finish_of(engine, "e", (5, *prompt[1:]))).cached_prompt_tokens == 0
    assert (await finish_of(engine, "f", prompt, output_token_ids=(5,))).cached_prompt_tokens == 90
    off = await start_engine(tiny_qwen2, page_tokens=10, prefix_reuse=False)
    for name in ("a", "b"):
        assert (await finish_of(off, name, prompt)).cached_prompt_tokens == 0


async def test_a_conversation_reuses_its_own_answers(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, page_tokens=10)
    prompt = prompts()[1]  # 17 tokens
    answer = await output_of(engine, TokenRequest(prompt, Envelope("first"), STOP))
    # The answer's last token was drawn and never computed.
    longer = (*prompt, *answer, 5, 6)
    assert (await finish_of(engine, "second", longer)).cached_prompt_tokens == 50


async def test_reuse_lasts_until_the_memory_is_needed(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, page_tokens=10, kv_capacity_tokens=200)
    first, other = prompts()[-1], prompts()[-2]  # 90 and 100 tokens
    await finish_of(engine, "a", first)
    await finish_of(engine, "b", other)
    assert (await finish_of(engine, "c", other)).cached_prompt_tokens == 90
    # One page of the first had to go, its last one.
    assert 0 < (await finish_of(engine, "d", first)).cached_prompt_tokens <= 80
    third = tuple(range(4, 194))
    assert (await finish_of(engine, "e", third)).cached_prompt_tokens == 0
    assert (await finish_of(engine, "f", first)).cached_prompt_tokens == 0
