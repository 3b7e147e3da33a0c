"""Output with adapters, in batches that mix them, against peft."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig

from qwire.engine import loader
from qwire.engine.chunk import TokenChunk
from qwire.engine.config import EngineConfig
from qwire.engine.errors import AdapterUnusable
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.transformers_loader import load_transformers
from tests.support.log_lines import collected_log_lines
from tests.support.peft_adapter import ALL, ATTENTION, base_model, greedy, with_adapter, write_adapter
from tests.support.qwen_families import VOCABULARY, write_family
from tests.support.rounded_model import RoundedModel

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
OUTPUT_TOKENS = 12
LENGTHS = [1, 2, 5, 16, 31, 64, 130]


def prompts() -> list[tuple[int, ...]]:
    random_source = random.Random(8)  # noqa: S311 - the same prompts each time
    return [tuple(random_source.randrange(4, 1000) for _ in range(length)) for length in LENGTHS]


def asking(prompt: tuple[int, ...], adapter: str = "", name: str = "", **options: Any) -> TokenRequest:
    envelope = Envelope(name or f"{adapter}-{hash(prompt)}")
    return TokenRequest(prompt, envelope, StopParams(OUTPUT_TOKENS, ignore_eos=True), adapter=adapter, **options)


async def output_of(engine: LocalEngine, request: TokenRequest) -> list[int]:
    return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]


async def outputs_of(engine: LocalEngine, requests: list[TokenRequest]) -> list[list[int]]:
    return list(await asyncio.gather(*(output_of(engine, request) for request in requests)))


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """The folder of adapters."""
    return tmp_path


@pytest.fixture
def two_adapters(tiny_model: Path, adapters: Path) -> Path:
    """Two adapters of all layers and different ranks."""
    write_adapter(tiny_model, adapters / "one", 1)
    write_adapter(tiny_model, adapters / "two", 2, r=7, use_rslora=True, lora_alpha=3)
    return adapters


@pytest.mark.parametrize("max_step_tokens", [16, 256])
async def test_a_batch_of_base_and_adapters_is_that_of_peft(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine, max_step_tokens: int
):
    models = {"": base_model(tiny_model)}
    models |= {name: with_adapter(tiny_model, two_adapters / name) for name in ("one", "two")}
    engine = await start_engine(tiny_model, adapters_dir=two_adapters, max_step_tokens=max_step_tokens)
    requests = [asking(prompt, name) for prompt in prompts() for name in models]
    random.Random(max_step_tokens).shuffle(requests)  # noqa: S311 - any order will do
    outputs = await outputs_of(engine, requests)
    for request, output in zip(requests, outputs, strict=True):
        assert output == greedy(models[request.adapter], request.prompt_token_ids, OUTPUT_TOKENS), request.adapter
    assert len({tuple(output) for output in outputs}) == len(requests), "every adapter changes every answer"


@pytest.mark.parametrize("module", [*ALL, "self_attn.v_proj"])
async def test_each_module_alone_is_that_of_peft(
    tiny_model: Path, adapters: Path, start_engine: StartEngine, module: str
):
    write_adapter(tiny_model, adapters / "a", 3, target_modules=[module], lora_alpha=16)
    model = with_adapter(tiny_model, adapters / "a")
    engine = await start_engine(tiny_model, adapters_dir=adapters)
    for prompt in prompts()[-2:]:
        output = await output_of(engine, asking(prompt, "a"))
        assert output == greedy(model, prompt, OUTPUT_TOKENS)
        assert output != await output_of(engine, asking(prompt))


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj", "up_proj"]},
        {"target_modules": r".*\.(k_proj|gate_proj)"},
        {"target_modules": "all-linear"},
        {"layers_to_transform": [1]},
        {"exclude_modules": ["o_proj"]},
        {"rank_pattern": {"k_proj": 9, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"down_proj": 32}},
        {"rank_pattern": {"k_proj": 9}, "alpha_pattern": {"k_proj": 32}, "use_rslora": True},
    ],
)
async def test_a_choice_of_layers_ranks_and_scales_is_that_of_peft(
    tiny_qwen3: Path, adapters: Path, start_engine: StartEngine, options: dict[str, Any]
):
    write_adapter(tiny_qwen3, adapters / "a", 4, **options)
    model = with_adapter(tiny_qwen3, adapters / "a")
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters)
    for prompt in prompts()[-2:]:
        output = await output_of(engine, asking(prompt, "a"))
        assert output == greedy(model, prompt, OUTPUT_TOKENS)
        assert output != await output_of(engine, asking(prompt))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
async def test_an_adapter_in_half_precision_is_applied_in_float32(
    tiny_qwen2: Path, adapters: Path, start_engine: StartEngine, dtype: torch.dtype
):
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - one test's

    weights = write_adapter(tiny_qwen2, adapters / "a", 5) / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights)
    model = with_adapter(tiny_qwen2, adapters / "a")
    engine = await start_engine(tiny_qwen2, adapters_dir=adapters)
    prompt = prompts()[-1]
    assert await output_of(engine, asking(prompt, "a")) == greedy(model, prompt, OUTPUT_TOKENS)


async def test_with_8_bit_weights_it_is_the_likeliest_of_peft_with_the_same_weights(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine, tmp_path_factory: pytest.TempPathFactory
):
    models = {name: RoundedModel(with_adapter(tiny_model, two_adapters / name)) for name in ("one", "two")}
    kernels = tmp_path_factory.getbasetemp() / "q8-kernels"
    engine = await start_engine(tiny_model, quantization="q8", kernel_dir=kernels, adapters_dir=two_adapters)
    requests = [asking(prompt, name) for prompt in prompts() for name in models]
    outputs = await outputs_of(engine, requests)
    for name, model in models.items():
        asked = [
            (request, output) for request, output in zip(requests, outputs, strict=True) if request.adapter == name
        ]
        model.check((request.prompt_token_ids, output) for request, output in asked)


async def test_a_model_of_transformers_applies_them_too(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
):
    # Where a CPU has instructions for bfloat16, bitsandbytes rounds to it, and so the more the larger a batch is.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}
    models = {"": base_model(tiny_model, **options)}
    models |= {name: with_adapter(tiny_model, two_adapters / name, **options) for name in ("one", "two")}
    engine = await start_engine(tiny_model, quantization="nf4", double_quantization=False, adapters_dir=two_adapters)
    requests = [asking(prompt, name) for prompt in prompts()[2:5] for name in models]
    outputs = await outputs_of(engine, requests)
    for request, output in zip(requests, outputs, strict=True):
        assert output == greedy(models[request.adapter], request.prompt_token_ids, OUTPUT_TOKENS), request.adapter
    assert len({tuple(output) for output in outputs}) == len(requests)


@pytest.mark.parametrize("max_step_tokens", [16, 256])
@pytest.mark.parametrize("decoder", ["lean", "transformers"])
@pytest.mark.parametrize("family", ["qwen3-moe", "qwen3-moe-mixed"])
async def test_attention_beside_experts_is_that_of_peft(  # noqa: PLR0917 - fixtures and cases
    adapters: Path,
    tmp_path_factory: pytest.TempPathFactory,
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    decoder: str,
    max_step_tokens: int,
):
    def load(folder: Path, *_: object) -> Any:
        return load_transformers(folder, "", EngineConfig(quantization="none"), torch.device("cpu"), torch.float32)[0]

    if decoder == "transformers":
        monkeypatch.setattr(loader, "load_lean", load)
    folder = write_family(family, tmp_path_factory.mktemp(family))
    models = {"": base_model(folder)}
    for name, seed in (("one", 1), ("two", 2)):
        write_adapter(folder, adapters / name, seed, target_modules=list(ATTENTION[:2] if seed == 1 else ATTENTION))
        models[name] = with_adapter(folder, adapters / name)
    engine = await start_engine(folder, adapters_dir=adapters, max_step_tokens=max_step_tokens)
    chosen = [tuple(token_id % VOCABULARY for token_id in prompt) for prompt in prompts()[2:]]
    requests = [asking(prompt, name) for prompt in chosen for name in models]
    outputs = await outputs_of(engine, requests)
    for request, output in zip(requests, outputs, strict=True):
        assert output == greedy(models[request.adapter], request.prompt_token_ids, OUTPUT_TOKENS), request.adapter
    assert len({tuple(output) for output in outputs}) == len(requests), "every adapter changes every answer"


async def test_rows_without_an_adapter_are_the_same_bit_by_bit(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine
):
    async def logprobs_of(engine: LocalEngine, request: TokenRequest) -> list[Any]:
        return [one async for chunk in engine.generate(request) for one in chunk.logprobs]

    engine = await start_engine(tiny_model, adapters_dir=two_adapters, prefix_reuse=False)
    chosen = prompts()[3:6]

    async def with_mates(adapters: tuple[str, ...]) -> list[list[Any]]:
        plain = [asking(prompt, name=f"plain-{prompt[0]}", top_logprobs=5) for prompt in chosen]
        mates = [asking(prompt, name, f"mate-{prompt[0]}") for prompt, name in zip(chosen, adapters, strict=True)]
        results = await asyncio.gather(
            *(logprobs_of(engine, one) for one in plain), *(output_of(engine, one) for one in mates)
        )
        return results[: len(plain)]

    assert await with_mates(("one", "two", "one")) == await with_mates(("", "", ""))


async def test_sampled_output_is_the_same_alone_batched_and_resumed(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine
):
    engine = await start_engine(tiny_model, adapters_dir=two_adapters, max_step_tokens=48)
    requests = [
        asking(prompt, name, sampling=SamplingParams(temperature=10.0, seed=len(prompt)))
        for prompt in prompts()
        for name in ("", "one", "two")
    ]
    alone = [await output_of(engine, request) for request in requests]
    assert await outputs_of(engine, requests) == alone
    for request, output in zip(requests, alone, strict=True):
        resumed = asking(
            request.prompt_token_ids, request.adapter, sampling=request.sampling, output_token_ids=tuple(output[:5])
        )
        assert await output_of(engine, resumed) == output[5:]


async def test_a_prefix_is_reused_within_an_adapter_only(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine
):
    async def answer(adapter: str, name: str) -> tuple[list[int], int]:
        token_ids, cached = list[int](), 0
        async for chunk in engine.generate(asking(prompt, adapter, name)):
            token_ids += chunk.token_ids
            cached = chunk.finish.cached_prompt_tokens if chunk.finish else cached
        return token_ids, cached

    engine = await start_engine(tiny_model, adapters_dir=two_adapters)
    prompt = prompts()[-1]
    first = {name: await answer(name, f"first {name}") for name in ("", "one", "two")}
    assert {cached for _, cached in first.values()} == {0}
    for name, (output, _) in first.items():
        assert await answer(name, f"again {name}") == (output, 128)


async def test_a_preempted_generation_goes_on_with_its_adapter(
    tiny_model: Path, two_adapters: Path, start_engine: StartEngine
):
    roomy = await start_engine(tiny_model, adapters_dir=two_adapters)
    tight = await start_engine(tiny_model, adapters_dir=two_adapters, kv_capacity_tokens=112, page_tokens=4)
    stop = StopParams(60, ignore_eos=True)
    requests = [
        TokenRequest(prompts()[3], Envelope(f"{name}{index}"), stop, adapter=name)
        for index in range(2)
        for name in ("", "one", "two")
    ]
    expected = await outputs_of(roomy, requests)
    with collected_log_lines() as lines:
        assert await outputs_of(tight, requests) == expected
    preempted = {str(line["request_id"]) for line in lines.of("generation_preempted")}
    assert any(name.startswith(("one", "two")) for name in preempted)


async def test_files_that_change_are_another_adapter(tiny_qwen2: Path, adapters: Path, start_engine: StartEngine):
    write_adapter(tiny_qwen2, adapters / "a", 6)
    engine = await start_engine(tiny_qwen2, adapters_dir=adapters)
    prompt = prompts()[-1]
    before = await output_of(engine, asking(prompt, "a"))
    old = with_adapter(tiny_qwen2, adapters / "a")
    running = engine.generate(asking(prompt, "a", "running"))
    token_ids = list((await anext(running)).token_ids)

    write_adapter(tiny_qwen2, adapters / "a", 7)
    after = await output_of(engine, asking(prompt, "a"))
    assert before == greedy(old, prompt, OUTPUT_TOKENS)
    assert after == greedy(with_adapter(tiny_qwen2, adapters / "a"), prompt, OUTPUT_TOKENS)
    assert after != before
    async for chunk in running:
        token_ids += chunk.token_ids
    assert token_ids == before, "a generation keeps the adapter that it began with"

    config = adapters / "a" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 1}))
    scaled = await output_of(engine, asking(prompt, "a"))
    assert scaled == greedy(with_adapter(tiny_qwen2, adapters / "a"), prompt, OUTPUT_TOKENS)
    assert scaled != after


async def test_a_generation_goes_on_with_the_files_that_it_began_with(
    tiny_qwen2: Path, two_adapters: Path, start_engine: StartEngine
):
    async def chunks_of(engine: LocalEngine, request: TokenRequest) -> list[TokenChunk]:
        return [chunk async for chunk in engine.generate(request)]

    engine = await start_engine(tiny_qwen2, adapters_dir=two_adapters)
    prompt = prompts()[4]
    chunks = await chunks_of(engine, asking(prompt, "one"))
    whole = [token_id for chunk in chunks for token_id in chunk.token_ids]
    digests = {info.adapter_id: info.sha256 for info in await engine.adapters()}
    assert [chunk.adapter_sha256 for chunk in chunks if chunk.timings is not None] == [digests["one"]]
    assert not any(chunk.adapter_sha256 for chunk in await chunks_of(engine, asking(prompt)))
    read = await chunks_of(engine, asking(prompt, "one", prompt_logprobs=0))
    assert {chunk.adapter_sha256 for chunk in read if chunk.prompt_logprobs} == {digests["one"]}

    shutil.copytree(two_adapters / "two", two_adapters / "one", dirs_exist_ok=True)
    begun: dict[str, Any] = {"output_token_ids": tuple(whole[:5]), "adapter_sha256": digests["one"]}
    assert await output_of(engine, asking(prompt, "one", "rest", **begun)) == whole[5:]
    assert await output_of(engine, asking(prompt, "one", "new")) == await output_of(engine, asking(prompt, "two"))
    other = await start_engine(tiny_qwen2, adapters_dir=two_adapters)
    with pytest.raises(AdapterUnusable, match="replaced while the generation ran"):
        await output_of(other, asking(prompt, "one", "rest", **begun))
    assert await output_of(other, asking(prompt, "one")) == await output_of(other, asking(prompt, "two"))
