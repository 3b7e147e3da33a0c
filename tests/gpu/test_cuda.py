"""The engine on a CUDA device, against transformers' `generate` on the same device."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoModelForCausalLM

from qwire.engine.attention_check import TOLERANCE, deviation
from qwire.engine.config import EngineConfig
from qwire.engine.flash_attention import PAGE_TOKENS, FlashAttention, unmet_demand
from qwire.engine.kv_pool import KVShape
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.checkpoint import Checkpoint
from tests.support.log_lines import collected_log_lines
from tests.support.peft_adapter import ALL, ATTENTION, greedy, with_adapter, write_adapter
from tests.support.qwen_families import EOS, write_family

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

OUTPUT_TOKENS = 24
VOCABULARY = 1000
# Of each family, with sizes that bitsandbytes' groups and products of groups of rows take.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2-large": _SIZES,
    "qwen3-large": {**_SIZES, "head_dim": 32},
    "qwen3-moe": {**_SIZES, "head_dim": 32, "moe_intermediate_size": 64},
}
SPARSE = "qwen3-moe"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random model of the family whose logits are far apart."""
    folder = write_family(family, tmp_path_factory.mktemp(family), **FAMILIES[family])
    return Checkpoint(folder, "tiny", "revision", "", "", "")


async def outputs(
    checkpoint: Checkpoint, prompts: list[tuple[int, ...]], adapter: str = "", **options: Any
) -> list[list[int]]:
    engine = await LocalEngine.start(checkpoint, EngineConfig(device="cuda", **options))

    async def output_of(index: int) -> list[int]:
        request = TokenRequest(prompts[index], Envelope(str(index)), StopParams(OUTPUT_TOKENS), adapter=adapter)
        return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]

    try:
        return await asyncio.gather(*(output_of(index) for index in range(len(prompts))))
    finally:
        await engine.close()


@pytest.fixture
def prompts() -> list[tuple[int, ...]]:
    random_source = random.Random(5)  # noqa: S311 - the same prompts each time
    lengths = (1, 2, 7, 16, 33, 64, 100, 129, 257, 600, 1024, 1500)
    return [tuple(random_source.randrange(4, VOCABULARY) for _ in range(length)) for length in lengths]


def reference(folder: Path, prompt: tuple[int, ...]) -> list[int]:
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, device_map={"": "cuda"}
    )
    ids = torch.tensor([prompt], device="cuda")
    options = {"do_sample": False, "max_new_tokens": OUTPUT_TOKENS, "pad_token_id": EOS}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("speculation", ["none", "prompt-lookup"])
async def test_float32_output_is_that_of_generate(
    checkpoint: Checkpoint, prompts: list[tuple[int, ...]], speculation: str
) -> None:
    expected = [reference(checkpoint.folder, prompt) for prompt in prompts]
    options: dict[str, Any] = {"speculation": speculation, "lookup_least_tokens": 1}
    assert await outputs(checkpoint, prompts, compute_dtype="float32", max_step_tokens=128, **options) == expected


async def test_output_with_an_adapter_is_that_of_peft(
    family: str, checkpoint: Checkpoint, prompts: list[tuple[int, ...]], tmp_path: Path
) -> None:
    modules = list(ATTENTION if family == SPARSE else ALL)
    adapter = write_adapter(checkpoint.folder, tmp_path / "a", target_modules=modules)
    model = with_adapter(checkpoint.folder, adapter, device_map={"": "cuda"})
    expected = [greedy(model, prompt, OUTPUT_TOKENS) for prompt in prompts]
    results = await outputs(checkpoint, prompts, "a", compute_dtype="float32", adapters_dir=tmp_path)
    for output, whole in zip(results, expected, strict=True):
        assert output == whole[: len(output)]
        assert len(output) == OUTPUT_TOKENS or output[-1] == EOS


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4", "fp4"])
async def test_every_quantization_generates_in_half_precision(
    family: str, checkpoint: Checkpoint, prompts: list[tuple[int, ...]], quantization: str
) -> None:
    if family == SPARSE and quantization != "none":
        pytest.skip("experts would stay as they are: it is refused")
    results = await outputs(checkpoint, prompts, quantization=quantization)
    assert all(len(output) == OUTPUT_TOKENS or output[-1] == EOS for output in results)
    assert len({tuple(output) for output in results}) > len(prompts) // 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "head_size"), [(14, 2, 64), (28, 4, 128), (16, 8, 128)])
def test_flash_attention_is_torchs(heads: int, kv_heads: int, head_size: int, dtype: torch.dtype) -> None:
    shape = KVShape(layers=2, kv_heads=kv_heads, head_size=head_size, dtype=dtype, device=torch.device("cuda"))
    assert unmet_demand(shape, PAGE_TOKENS) is None
    assert deviation(FlashAttention(varlen_attn), shape, heads, PAGE_TOKENS) <= TOLERANCE


@pytest.mark.parametrize("quantization", ["none", "nf4"])
async def test_replayed_steps_write_what_computed_ones_write(
    family: str, checkpoint: Checkpoint, prompts: list[tuple[int, ...]], quantization: str
) -> None:
    if family == SPARSE and quantization != "none":
        pytest.skip("experts would stay as they are: it is refused")
    options: dict[str, Any] = {"quantization": quantization, "max_running": 6}
    computed = await outputs(checkpoint, prompts, decode_graphs=False, **options)
    with collected_log_lines() as lines:
        replayed = await outputs(checkpoint, prompts, **options)
    # Not all: other numbers of rows are other kernels, whose rounding may turn the draw of two tokens alike.
    assert sum(a == b for a, b in zip(replayed, computed, strict=True)) > len(prompts) // 2
    assert not lines.of("flash_attention_unavailable")
    # Where torch has no kernel for products of groups, the host looks up which experts have which rows.
    waiting = [line for line in lines.of("decode_graphs_unavailable") if "synchroniz" in line["reason"]]
    assert lines.of("decode_graphs_unavailable") == (waiting if family == SPARSE else [])


async def test_small_pages_are_read_by_torch(checkpoint: Checkpoint, prompts: list[tuple[int, ...]]) -> None:
    with collected_log_lines() as lines:
        results = await outputs(checkpoint, prompts, page_tokens=16)
    assert all(len(output) == OUTPUT_TOKENS or output[-1] == EOS for output in results)
    (line,) = lines.of("flash_attention_unavailable")
    assert "page_tokens is 16" in line["reason"]


async def test_memory_is_the_devices(checkpoint: Checkpoint) -> None:
    engine = await LocalEngine.start(checkpoint, EngineConfig(device="cuda"))
    stats = await engine.stats()
    assert stats.memory_total_bytes == torch.cuda.get_device_properties(0).total_memory
    assert (await engine.card()).quantization.compute_dtype in ("bfloat16", "float16")
    await engine.close()
