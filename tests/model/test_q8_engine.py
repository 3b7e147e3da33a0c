"""An engine with 8-bit weights against transformers with the same numbers, quantized and dequantized."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from qwire.engine.chunk import TokenLogprobs
from qwire.engine.config import EngineConfig
from qwire.engine.loader import load_model
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from tests.support.rounded_model import RoundedModel

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
OUTPUT_TOKENS = 20
LENGTHS = [1, 2, 5, 16, 17, 31, 64, 100, 257, 700]


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled, once for all tests."""
    return tmp_path_factory.getbasetemp() / "q8-kernels"


def prompts() -> list[tuple[int, ...]]:
    random_source = random.Random(6)  # noqa: S311 - the same prompts each time
    return [tuple(random_source.randrange(4, 1000) for _ in range(length)) for length in LENGTHS]


async def logprobs_of(engine: LocalEngine, request: TokenRequest) -> list[TokenLogprobs]:
    return [record async for chunk in engine.generate(request) for record in chunk.logprobs]


async def output_of(engine: LocalEngine, request: TokenRequest) -> list[int]:
    return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]


@pytest.mark.parametrize("max_step_tokens", [16, 256])
async def test_output_is_the_likeliest_of_the_rounded_weights(
    tiny_model: Path, start_engine: StartEngine, kernels: Path, max_step_tokens: int
) -> None:
    model = RoundedModel(AutoModelForCausalLM.from_pretrained(tiny_model, local_files_only=True))
    engine = await start_engine(tiny_model, quantization="q8", kernel_dir=kernels, max_step_tokens=max_step_tokens)
    stop = StopParams(OUTPUT_TOKENS, ignore_eos=True)
    requests = [TokenRequest(prompt, Envelope(str(index)), stop) for index, prompt in enumerate(prompts())]
    outputs = await asyncio.gather(*(output_of(engine, request) for request in requests))
    model.check(zip(prompts(), outputs, strict=True))


async def test_sampled_output_is_the_same_alone_batched_and_resumed(
    tiny_model: Path, start_engine: StartEngine, kernels: Path
) -> None:
    engine = await start_engine(tiny_model, quantization="q8", kernel_dir=kernels, max_step_tokens=48)
    requests = [
        TokenRequest(
            prompt, Envelope(str(seed)), StopParams(12, ignore_eos=True), SamplingParams(temperature=10.0, seed=seed)
        )
        for seed, prompt in enumerate(prompts()[:8])
    ]
    alone = [await output_of(engine, request) for request in requests]
    together = await asyncio.gather(*(output_of(engine, request) for request in requests))
    assert together == alone
    resumed = [
        replace(request, output_token_ids=tuple(output[:5])) for request, output in zip(requests, alone, strict=True)
    ]
    assert [await output_of(engine, request) for request in resumed] == [output[5:] for output in alone]


@pytest.mark.parametrize("quantization", ["q8", "none"])
async def test_log_probabilities_are_the_same_bits_however_prompts_are_cut(
    tiny_model: Path, start_engine: StartEngine, kernels: Path, *, quantization: str
) -> None:
    answers: list[list[list[TokenLogprobs]]] = []
    for step, prefix_reuse in ((16, False), (48, True), (512, False)):
        options = {"quantization": quantization, "kernel_dir": kernels, "max_running": 16}
        engine = await start_engine(tiny_model, **options, max_step_tokens=step, prefix_reuse=prefix_reuse)
        stop, sampling = StopParams(6, ignore_eos=True), SamplingParams(temperature=10.0, seed=3)
        requests = [
            TokenRequest(prompt, Envelope(str(index)), stop, sampling, top_logprobs=3)
            for index, prompt in enumerate([*prompts(), *prompts()])
        ]
        answers.append(await asyncio.gather(*(logprobs_of(engine, request) for request in requests)))
        await engine.close()
    assert answers[0] == answers[1] == answers[2]


async def test_the_card_tells_of_it(tiny_qwen3: Path, start_engine: StartEngine, kernels: Path) -> None:
    card = await (await start_engine(tiny_qwen3, quantization="auto", kernel_dir=kernels)).card()
    facts = card.quantization
    assert (facts.method, facts.bits, facts.compute_dtype, facts.skipped_modules) == ("q8", 8, "float32", ())
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3, local_files_only=True)
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("quantization", ["q8", "none"])
async def test_without_a_compiler_torch_computes_where_it_is_asked_for(
    tiny_model: Path,
    start_engine: StartEngine,
    kernels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    quantization: str,
) -> None:
    fast = await start_engine(tiny_model, quantization=quantization, kernel_dir=kernels)
    monkeypatch.setenv("PATH", "")
    slow = await start_engine(tiny_model, quantization=quantization, kernel_dir=tmp_path)
    request = TokenRequest(tuple(range(10, 40)), Envelope("a"), StopParams(8, ignore_eos=True))
    assert await output_of(slow, request) == await output_of(fast, request)


def test_without_a_compiler_the_default_is_float32(
    tiny_qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    loaded = load_model(tiny_qwen2, "", EngineConfig(device="cpu", kernel_dir=tmp_path))
    assert loaded.quantization.method == "none"
