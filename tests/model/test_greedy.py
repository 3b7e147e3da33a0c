"""Greedy output against transformers' `generate`, one request at a time."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from qwire.engine.chunk import FinishReason, TokenChunk
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
LENGTHS = [
    *(1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 90, 100, 127, 128, 129, 150, 200, 255, 256),
    *(257, 400, 513, 777, 1024, 1499, 1500),
]
OUTPUT_TOKENS = 24
EOS = 3


def prompts() -> list[tuple[int, ...]]:
    random_source = random.Random(5)  # noqa: S311 - the same prompts each time
    return [tuple(random_source.randrange(4, 1000) for _ in range(length)) for length in LENGTHS]


@functools.cache
def reference(folder: Path) -> list[list[int]]:
    """Return what transformers generates for each prompt."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    outputs: list[list[int]] = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=OUTPUT_TOKENS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


async def collect(engine: LocalEngine, request: TokenRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(request)]


@pytest.mark.parametrize("max_step_tokens", [16, 256])
@pytest.mark.parametrize("concurrency", [1, 4, 16])
async def test_output_is_that_of_generate_at_any_concurrency_and_order(
    tiny_model: Path,
    start_engine: StartEngine,
    concurrency: int,
    max_step_tokens: int,
) -> None:
    references = reference(tiny_model)
    engine = await start_engine(tiny_model, max_step_tokens=max_step_tokens)
    order = list(enumerate(prompts()))
    random.Random(concurrency).shuffle(order)  # noqa: S311 - any order will do
    slots = asyncio.Semaphore(concurrency)
    outputs: dict[int, list[TokenChunk]] = {}

    async def run(index: int, prompt: tuple[int, ...]) -> None:
        async with slots:
            request = TokenRequest(prompt, Envelope(str(index)), StopParams(OUTPUT_TOKENS))
            outputs[index] = await collect(engine, request)

    await asyncio.gather(*(run(index, prompt) for index, prompt in order))
    for index, expected in enumerate(references):
        chunks = outputs[index]
        assert [token_id for chunk in chunks for token_id in chunk.token_ids] == expected, LENGTHS[index]
        finish = chunks[-1].finish
        assert finish is not None
        assert all(chunk.finish is None for chunk in chunks[:-1])
        by_eos = expected[-1] == EOS
        assert finish.reason is (FinishReason.END_OF_TURN if by_eos else FinishReason.LENGTH)


def test_the_reference_is_worth_comparing_with(tiny_model: Path) -> None:
    outputs = reference(tiny_model)
    assert len({tuple(output) for output in outputs}) > len(outputs) * 0.9
    assert any(len(set(output)) > OUTPUT_TOKENS // 3 for output in outputs)
