"""Every family, decoder, cache layout and size of step against transformers' `generate`, with mates in the batch."""

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

from qwire.engine import loader
from qwire.engine.config import EngineConfig
from qwire.engine.lean_decoder import LeanDecoder
from qwire.engine.loader import load_model
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.engine.transformers_loader import load_transformers
from tests.support.qwen_families import FAMILIES, VOCABULARY, write_family
from tests.support.rounded_model import RoundedModel

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
OUTPUT_TOKENS = 12
# The last one is longer than what the tiny model with YaRN was trained for, 140 tokens.
LENGTHS = [1, 2, 9, 31, 32, 65, 150]
# page_tokens, max_step_tokens: chunks below, at and above a page, and all prompts in one step.
LAYOUTS = [(1, 16), (16, 16), (7, 24), (16, 512)]
SPARSE = [name for name, config in FAMILIES.items() if config.model_type == "qwen3_moe"]


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's tiny model."""

    @functools.cache
    def folder(name: str) -> Path:
        return write_family(name, tmp_path_factory.mktemp(name))

    return folder


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled, once for all tests."""
    return tmp_path_factory.getbasetemp() / "q8-kernels"


def prompts() -> list[tuple[int, ...]]:
    random_source = random.Random(7)  # noqa: S311 - the same prompts each time
    return [tuple(random_source.randrange(4, VOCABULARY) for _ in range(length)) for length in LENGTHS]


def generate(model: Any, prompt: tuple[int, ...]) -> list[int]:
    """Return transformers' greedy continuation."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": OUTPUT_TOKENS, "min_new_tokens": OUTPUT_TOKENS}
    # An end of turn beyond the vocabulary never comes.
    ends = {"eos_token_id": VOCABULARY, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options, **ends)[0, len(prompt) :].tolist()


@functools.cache
def reference(folder: Path) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return [generate(model, prompt) for prompt in prompts()]


async def outputs(engine: LocalEngine) -> list[list[int]]:
    """Return the continuations of all prompts, computed together."""

    async def output(index: int, prompt: tuple[int, ...]) -> list[int]:
        request = TokenRequest(prompt, Envelope(str(index)), StopParams(OUTPUT_TOKENS, ignore_eos=True))
        return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]

    return await asyncio.gather(*(output(index, prompt) for index, prompt in enumerate(prompts())))


@pytest.mark.parametrize(("page_tokens", "max_step_tokens"), LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
async def test_output_is_that_of_generate(
    families: Callable[[str], Path], start_engine: StartEngine, name: str, page_tokens: int, max_step_tokens: int
) -> None:
    folder = families(name)
    engine = await start_engine(folder, page_tokens=page_tokens, max_step_tokens=max_step_tokens)
    assert await outputs(engine) == reference(folder)


@pytest.mark.parametrize("name", FAMILIES)
async def test_output_from_pages_that_are_kept_is_the_same(
    families: Callable[[str], Path], start_engine: StartEngine, name: str
) -> None:
    engine = await start_engine(families(name), page_tokens=8, max_step_tokens=64)
    assert await outputs(engine) == await outputs(engine) == reference(families(name))


@pytest.mark.parametrize("max_step_tokens", [16, 512])
@pytest.mark.parametrize("name", FAMILIES)
async def test_output_of_the_decoder_for_gpus_is_that_of_generate(
    families: Callable[[str], Path],
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    max_step_tokens: int,
) -> None:
    def load(folder: Path, *_: object) -> Any:
        return load_transformers(folder, "", EngineConfig(quantization="none"), torch.device("cpu"), torch.float32)[0]

    monkeypatch.setattr(loader, "load_lean", load)
    engine = await start_engine(families(name), max_step_tokens=max_step_tokens)
    assert await outputs(engine) == reference(families(name))


@pytest.mark.parametrize("max_step_tokens", [16, 512])
@pytest.mark.parametrize("name", FAMILIES)
async def test_8_bit_output_is_the_likeliest_of_the_rounded_weights(
    families: Callable[[str], Path], start_engine: StartEngine, kernels: Path, name: str, max_step_tokens: int
) -> None:
    model = RoundedModel(
        AutoModelForCausalLM.from_pretrained(families(name), local_files_only=True, experts_implementation="eager")
    )
    engine = await start_engine(families(name), quantization="q8", kernel_dir=kernels, max_step_tokens=max_step_tokens)
    model.check(zip(prompts(), await outputs(engine), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
async def test_the_card_says_what_was_loaded(
    families: Callable[[str], Path], start_engine: StartEngine, name: str
) -> None:
    card = await (await start_engine(families(name))).card()
    model = AutoModelForCausalLM.from_pretrained(families(name), local_files_only=True)
    assert card.architecture == type(model).__name__
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())
    yarn = FAMILIES[name].rope_parameters["rope_type"] == "yarn"
    assert card.context_tokens == (560 if yarn else FAMILIES[name].max_position_embeddings)


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
@pytest.mark.parametrize("name", SPARSE)
def test_experts_that_would_stay_as_they_are_are_refused(
    families: Callable[[str], Path], name: str, quantization: str
) -> None:
    with pytest.raises(ValueError, match=f"quantization is {quantization}, which leaves the experts"):
        load_model(families(name), "", EngineConfig(device="cpu", quantization=quantization))


def test_the_mixed_model_has_layers_of_both_kinds(families: Callable[[str], Path]) -> None:
    decoder = load_model(families("qwen3-moe-mixed"), "", EngineConfig(device="cpu", quantization="none")).decoder
    assert isinstance(decoder, LeanDecoder)
    kinds = [type(layer.feed_forward).__name__ for layer in decoder.layers]
    assert kinds == ["DenseFeedForward", "SparseFeedForward", "DenseFeedForward", "DenseFeedForward"]


def test_the_references_are_worth_comparing_with(families: Callable[[str], Path]) -> None:
    for name in FAMILIES:
        found = reference(families(name))
        assert len({tuple(output) for output in found}) == len(found), name
        assert max(len(set(output)) for output in found) > OUTPUT_TOKENS // 3, name
