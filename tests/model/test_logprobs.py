"""Log-probabilities are those of the model alone, whatever is asked of the draw."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from qwire.engine.chunk import TokenLogprobs
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.sampler import draw
from qwire.engine.sequence import Sequence

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
STOP = StopParams(12, ignore_eos=True)
SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=10.0, top_k=20, top_p=0.9, seed=1),
    SamplingParams(repetition_penalty=2.0, presence_penalty=2.0, temperature=10.0, seed=2),
]


def request(name: str, top: int | None, sampling: SamplingParams) -> TokenRequest:
    return TokenRequest((4, 5, 6), Envelope(name), STOP, sampling, top_logprobs=top)


async def output_of(engine: LocalEngine, request: TokenRequest) -> tuple[list[int], list[TokenLogprobs]]:
    chunks = [chunk async for chunk in engine.generate(request)]
    return [one for chunk in chunks for one in chunk.token_ids], [one for chunk in chunks for one in chunk.logprobs]


def sequence(top: int | None, sampling: SamplingParams | None = None, stop: StopParams = STOP) -> Sequence:
    request = TokenRequest((1, 2), Envelope("a"), stop, sampling or SamplingParams(), top_logprobs=top)
    return Sequence(request, frozenset({3}), 0, 0)


def assert_record(record: TokenLogprobs | None, logits: Tensor, token_id: int, top: int) -> None:
    """Compare with the log-softmax in float64; of equally likely tokens the lowest ids go first."""
    assert record is not None
    expected = logits.double().log_softmax(dim=-1)
    assert record.logprob == pytest.approx(expected[token_id].item(), abs=1e-9)
    ranked = sorted(range(len(logits)), key=lambda one: (-logits[one].item(), one))[:top]
    assert [one for one, _ in record.top] == ranked
    assert [logprob for _, logprob in record.top] == pytest.approx(expected[ranked].tolist(), abs=1e-9)


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_records_are_the_models_own_probabilities(
    tiny_qwen2: Path, start_engine: StartEngine, sampling: SamplingParams
) -> None:
    engine = await start_engine(tiny_qwen2, max_running=4)
    silent, *spoken = await asyncio.gather(
        *(output_of(engine, request(str(top), top, sampling)) for top in (None, 0, 3, 20))
    )
    assert silent[1] == []
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen2, local_files_only=True)
    with torch.inference_mode():
        logits = model(torch.tensor([[4, 5, 6, *silent[0]]])).logits[0, 2:-1].double()
    expected = logits.log_softmax(dim=-1)
    for (token_ids, records), top in zip(spoken, (0, 3, 20), strict=True):
        assert token_ids == silent[0]  # asking changes nothing
        for row, token_id, record in zip(expected, token_ids, records, strict=True):
            assert record.logprob == pytest.approx(row[token_id].item(), abs=1e-3)
            assert len(record.top) == top
            for other, logprob in record.top:
                assert logprob == pytest.approx(row[other].item(), abs=1e-3)
            assert [one for one, _ in record.top][:1] == [row.argmax().item()][:top]


async def test_records_go_on_after_a_resume(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2)
    whole = request("whole", 5, SAMPLINGS[1])
    token_ids, records = await output_of(engine, whole)
    rest = await output_of(engine, replace(whole, output_token_ids=tuple(token_ids[:4])))
    assert rest[0] == token_ids[4:]
    for one, expected in zip(rest[1], records[4:], strict=True):
        assert one.logprob == pytest.approx(expected.logprob, abs=1e-3)
        assert [other for other, _ in one.top] == [other for other, _ in expected.top]


@pytest.mark.parametrize("vocabulary", [50, 64 * 300])
@pytest.mark.parametrize("grain", [0.0, 8.0])
def test_a_record_is_the_same_in_every_batch_and_before_all_changes(vocabulary: int, grain: float) -> None:
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(1)) * 3
    if grain:
        logits = (logits / grain).round() * grain
    logits[:, 3] = 100.0  # must not be drawn yet, and is the most likely token all the same
    stop = replace(STOP, ignore_eos=False, min_output_tokens=2)
    sampling = SamplingParams(repetition_penalty=3.0, temperature=2.0, top_p=0.5, seed=3)
    sequences = [sequence(top, sampling, stop) for top in (None, 0, 7, 20)]
    batch = draw(logits.clone(), sequences)
    alone = [draw(row[None].clone(), [one])[0] for row, one in zip(logits, sequences, strict=True)]
    assert batch == alone
    for row, one, top in zip(logits, batch, (None, 0, 7, 20), strict=True):
        assert one is not None
        assert one.token_id != 3
        if top is None:
            assert one.logprobs is None
        else:
            assert_record(one.logprobs, row, one.token_id, top)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_has_no_record_and_harms_no_other(bad: float) -> None:
    logits = torch.randn(4, 400, generator=torch.Generator().manual_seed(2))
    sequences = [
        sequence(5),
        sequence(5, SamplingParams(temperature=1.0)),
        sequence(None, SamplingParams(temperature=1.0, top_p=0.5, repetition_penalty=1.5)),
        sequence(20, SamplingParams(temperature=1.0, top_k=5)),
    ]
    expected = draw(logits.clone(), sequences)
    for ill in range(4):
        poisoned = logits.clone()
        poisoned[ill, 77] = bad
        assert draw(poisoned, sequences) == [None if row == ill else one for row, one in enumerate(expected)]
