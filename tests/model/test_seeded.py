"""A sampled token is a function of (logits, seed, position) only."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.sampler import sample
from qwire.engine.sequence import Sequence

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
STOP = StopParams(16, ignore_eos=True)
# The logits of the tiny models are tens apart; a temperature as high as the bounds allow makes real choices of them.
SAMPLINGS = [
    SamplingParams(temperature=10.0, seed=1),
    SamplingParams(temperature=10.0, top_k=30, seed=2),
    SamplingParams(temperature=10.0, top_p=0.8, seed=3),
    SamplingParams(temperature=10.0, min_p=0.05, seed=4),
    SamplingParams(repetition_penalty=2.0, temperature=10.0, top_p=0.9, seed=5),
    SamplingParams(presence_penalty=2.0, temperature=5.0, top_k=50, seed=6),
    SamplingParams(frequency_penalty=2.0, temperature=8.0, top_k=5, top_p=0.95, min_p=0.01, seed=7),
    SamplingParams(repetition_penalty=1.5, presence_penalty=1.0, frequency_penalty=1.0),
]


def requests() -> list[TokenRequest]:
    random_source = random.Random(11)  # noqa: S311 - the same prompts each time
    return [
        TokenRequest(
            tuple(random_source.randrange(4, 1000) for _ in range(length)), Envelope(str(index)), STOP, sampling
        )
        for index, (length, sampling) in enumerate(zip((1, 9, 30, 64, 65, 80, 120, 300), SAMPLINGS, strict=True))
    ]


async def output_of(engine: LocalEngine, request: TokenRequest) -> tuple[int, ...]:
    return tuple([token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids])


def reference(folder: Path, request: TokenRequest) -> tuple[int, ...]:
    """Draw from transformers' logits of the whole text, again for each token; the sampler has its own reference."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    sequence = Sequence(request, frozenset(), 0, 0)
    while not sequence.ended:
        with torch.inference_mode():
            text = sequence.token_ids(0, sequence.total_tokens)
            logits = model(torch.tensor([text])).logits[0, -1:]
            (token_id,) = sample(logits, [sequence])
        assert token_id is not None
        sequence.append(token_id, 1)
    return tuple(sequence.output_token_ids)


async def test_sampled_output_is_the_same_alone_and_in_a_full_batch(
    tiny_model: Path, start_engine: StartEngine
) -> None:
    expected = [reference(tiny_model, request) for request in requests()]
    engine = await start_engine(tiny_model, max_running=8, max_step_tokens=48)
    alone = [await output_of(engine, request) for request in requests()]
    assert alone == expected
    full = await asyncio.gather(*(output_of(engine, request) for request in requests()))
    assert full == expected
    assert len({len(set(output)) for output in expected}) > 1


async def test_sampled_output_is_the_same_after_a_resume_at_every_cut(
    tiny_model: Path, start_engine: StartEngine
) -> None:
    first = await start_engine(tiny_model, max_running=8, max_step_tokens=48)
    whole = await asyncio.gather(*(output_of(first, request) for request in requests()))
    second = await start_engine(tiny_model, max_running=16, max_step_tokens=100)
    for cut in range(STOP.max_output_tokens):
        resumed = [
            replace(request, output_token_ids=output[:cut]) for request, output in zip(requests(), whole, strict=True)
        ]
        rest = await asyncio.gather(*(output_of(second, request) for request in resumed))
        assert [output[:cut] + more for output, more in zip(whole, rest, strict=True)] == whole


async def test_another_seed_gives_another_output(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2)
    request = requests()[0]
    outputs = [
        await output_of(engine, replace(request, sampling=replace(request.sampling, seed=seed))) for seed in range(4)
    ]
    assert len(set(outputs)) == 4
