"""What is loaded, how, and what is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qwire.engine.checkpoint_config import UnsupportedCheckpoint
from qwire.engine.config import EngineConfig
from qwire.engine.exact import ExactArithmetic, can_pack
from qwire.engine.loader import load_model, thread_count
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]


async def test_the_card_says_what_was_loaded(tiny_model: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_model)
    card = await engine.card()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, local_files_only=True)
    assert card.architecture == type(model).__name__
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (card.vocabulary_tokens, card.context_tokens, card.max_output_tokens) == (1000, 2048, 2047)
    assert (card.model_id, card.revision) == ("tiny", "revision")
    assert (card.weights_sha256, card.tokenizer_sha256) == ("w" * 64, "t" * 64)
    assert card.default_sampling == SamplingParams(temperature=0.0, top_k=50)
    facts = card.quantization
    assert (facts.method, facts.bits, facts.compute_dtype, facts.skipped_modules) == ("none", 32, "float32", ())
    assert (await engine.stats()).non_finite_weights == 0


@pytest.mark.parametrize(
    ("quantization", "double_quantization", "bits"),
    [("int8", True, 8), ("nf4", True, 4), ("nf4", False, 4), ("fp4", True, 4)],
)
async def test_quantized_models_generate(
    tiny_model: Path,
    start_engine: StartEngine,
    caplog: pytest.LogCaptureFixture,
    quantization: str,
    *,
    double_quantization: bool,
    bits: int,
) -> None:
    engine = await start_engine(
        tiny_model,
        quantization=quantization,
        double_quantization=double_quantization,
        max_step_tokens=16,
        # Both are to be computed: `int8` chooses its columns per step, and what is reused comes from another one.
        prefix_reuse=False,
    )
    facts = (await engine.card()).quantization
    assert (facts.method, facts.bits, facts.compute_dtype) == (quantization, bits, "float32")
    assert facts.double_quantization == (double_quantization and bits == 4)
    assert facts.skipped_modules == ("lm_head",)

    async def output(name: str) -> list[int]:
        request = TokenRequest(tuple(range(10, 40)), Envelope(name), StopParams(8, ignore_eos=True))
        return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]

    outputs = await asyncio.gather(output("a"), output("b"))
    assert len(outputs[0]) == 8
    assert outputs[0] == outputs[1]
    assert "MatMul8bitLt" not in caplog.text, "a step must not write log lines"


def test_packed_matrices_compute_the_same() -> None:
    assert can_pack(), "this build of torch has lost the packed linear; the engine would run on plain ones, slower"
    torch.manual_seed(1)
    weight, bias = torch.randn(100, 48), torch.randn(100)
    matrix = ExactArithmetic(tokens=16).pack(weight, bias)
    for tokens in (1, 2, 16, 100):
        x = torch.randn(tokens, 48)
        # Only the order of the additions differs.
        torch.testing.assert_close(matrix.of(x), x @ weight.T + bias, rtol=1e-5, atol=1e-4)


def test_pickled_weights_are_refused(tiny_qwen2: Path, copy_checkpoint: Callable[..., Path]) -> None:
    folder = copy_checkpoint(tiny_qwen2, without="model.safetensors")
    torch.save(load_file(tiny_qwen2 / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedCheckpoint, match="safetensors"):
        load_model(folder, "", EngineConfig(device="cpu"))


def test_a_head_that_is_neither_there_nor_tied_is_refused(
    tiny_qwen2: Path, copy_checkpoint: Callable[..., Path]
) -> None:
    folder = copy_checkpoint(tiny_qwen2, without="model.safetensors")
    weights = load_file(tiny_qwen2 / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UnsupportedCheckpoint, match="lm_head"):
        load_model(folder, "", EngineConfig(device="cpu", quantization="none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_dtype": "bfloat16"}, "compute_dtype is bfloat16"),
        ({"context_tokens": 2049}, "context_tokens is 2049"),
        ({"context_tokens": 64, "default_max_output_tokens": 64}, "default_max_output_tokens is 64"),
        ({"device": "abacus"}, "'abacus'"),
        ({"device": "meta"}, "'meta'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tiny_qwen2: Path, options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(tiny_qwen2, "", EngineConfig(**{"device": "cpu", **options}))  # pyright: ignore[reportArgumentType] - options by name


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_refused(tiny_qwen2: Path) -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        load_model(tiny_qwen2, "", EngineConfig(device="cuda"))


def test_threads_are_as_configured_or_the_cores() -> None:
    assert thread_count(EngineConfig(threads=3)) == 3
    assert 1 <= thread_count(EngineConfig()) <= (os.cpu_count() or 1)
