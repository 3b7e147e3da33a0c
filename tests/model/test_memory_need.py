"""The formula of what weights and KV cache need against the bytes of the tensors that are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from qwire.engine.config import EngineConfig
from qwire.engine.lean_decoder import LeanDecoder
from qwire.engine.loader import load_model
from qwire.engine.transformers_loader import load_transformers
from qwire.models.checkpoint import Checkpoint
from qwire.models.memory_need import BITSANDBYTES, memory_need
from qwire.models.published import PUBLISHED
from qwire.models.shape import Shape
from tests.support.qwen_families import FAMILIES, write_family

pytestmark = pytest.mark.model

# The others mix kinds of layers or have biases on Qwen3, which no published model does.
NAMES = ["qwen2-small", "qwen2-large", "qwen3-small", "qwen3-large", "qwen3-moe", "qwen3-moe-raw"]
TIED_AND_NOT = ["qwen2-small", "qwen2-large", "qwen3-small", "qwen3-large"]


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled, once for all tests."""
    return tmp_path_factory.getbasetemp() / "q8-kernels"


def shape_of(config: Any) -> Shape:
    sparse = config.model_type == "qwen3_moe"
    return Shape(
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        inner=config.moe_intermediate_size if sparse else config.intermediate_size,
        tied=config.tie_word_embeddings,
        biased=config.model_type == "qwen2",
        head_norms=config.model_type != "qwen2",
        experts=config.num_experts if sparse else 0,
        experts_per_token=config.num_experts_per_tok if sparse else 0,
    )


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors that an object of our own decoder holds, some of them several times."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:  # pyright: ignore[reportUnknownVariableType] - of anything
            yield from tensors_of(part)
    elif is_dataclass(value):
        for field in fields(value):
            if field.name != "rotary":
                yield from tensors_of(getattr(value, field.name))
    elif type(value).__module__.startswith("qwire.engine"):
        for part in vars(value).values():
            yield from tensors_of(part)


def held_bytes(tensors: Iterator[Tensor]) -> int:
    """Return their size together, each once; one that oneDNN reordered tells no address, and is its own."""
    held = {id(one) if one.is_mkldnn else one.data_ptr(): one.numel() * one.element_size() for one in tensors}
    return sum(held.values())


def bitsandbytes_tensors(model: Any) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter.data
        if (scales := getattr(parameter, "SCB", None)) is not None:
            yield scales
        state = getattr(parameter, "quant_state", None)
        for part in filter(None, (state, state and state.state2)):
            yield from (value for value in vars(part).values() if isinstance(value, Tensor))


def lean_bytes(folder: Path, quantization: str, kernels: Path) -> int:
    config = EngineConfig(device="cpu", quantization=quantization, kernel_dir=kernels)
    decoder = load_model(folder, "", config).decoder
    assert isinstance(decoder, LeanDecoder)
    return held_bytes(tensors_of(decoder))


@pytest.mark.parametrize("quantization", ["none", "q8"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_on_a_cpu_are_as_large_as_computed(tmp_path: Path, kernels: Path, name: str, quantization: str) -> None:
    need = memory_need(shape_of(FAMILIES[name]), quantization, "cpu", tokens=1, sequences=1)
    assert lean_bytes(write_family(name, tmp_path), quantization, kernels) == need.weights_bytes


@pytest.mark.parametrize("quantization", BITSANDBYTES)
@pytest.mark.parametrize("name", TIED_AND_NOT)
def test_weights_by_bitsandbytes_are_as_large_as_computed(tmp_path: Path, name: str, quantization: str) -> None:
    # In half precision, as on a GPU.
    config, cpu = EngineConfig(quantization=quantization), torch.device("cpu")
    decoder = load_transformers(write_family(name, tmp_path), "", config, cpu, torch.bfloat16)[0]
    need = memory_need(shape_of(FAMILIES[name]), quantization, "gpu", tokens=1, sequences=1)
    held = held_bytes(tensor for part in vars(decoder).values() for tensor in bitsandbytes_tensors(part))
    assert held == need.weights_bytes


@pytest.mark.parametrize("name", NAMES)
def test_weights_on_a_gpu_are_as_large_as_computed(tmp_path: Path, name: str) -> None:
    config, cpu = EngineConfig(quantization="none"), torch.device("cpu")
    decoder = load_transformers(write_family(name, tmp_path), "", config, cpu, torch.bfloat16)[0]
    need = memory_need(shape_of(FAMILIES[name]), "none", "gpu", tokens=1, sequences=1)
    held = held_bytes(tensor for part in vars(decoder).values() for tensor in bitsandbytes_tensors(part))
    assert held == need.weights_bytes


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_as_large_as_computed(tmp_path: Path, name: str) -> None:
    config: PreTrainedConfig = FAMILIES[name]
    loaded = load_model(write_family(name, tmp_path), "", EngineConfig(device="cpu", quantization="none"))
    need = memory_need(shape_of(config), "none", "cpu", tokens=100, sequences=3)
    assert need.kv_bytes == 300 * loaded.kv_shape.bytes_per_token
    assert memory_need(shape_of(config), "none", "gpu", tokens=100, sequences=3).kv_bytes * 2 == need.kv_bytes


@pytest.mark.default_model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quantization", ["none", "q8"])
def test_the_default_models_weights_are_as_large_as_computed(
    default_checkpoint: Checkpoint, kernels: Path, quantization: str
) -> None:
    (model,) = [one for one in PUBLISHED if one.name == "Qwen/Qwen2.5-Coder-0.5B-Instruct"]
    # Its file has a head of its own: rounded apart from the embedding, the two are no longer the same.
    shape = replace(model.shape, tied=False)
    need = memory_need(shape, quantization, "cpu", tokens=1, sequences=1)
    held = lean_bytes(default_checkpoint.folder, quantization, kernels)
    # Its numbers are those of a file of 4 to 8 bits a weight, and in float32 nearly all of them are held as such.
    assert held == need.weights_bytes if quantization == "q8" else held < 0.4 * need.weights_bytes
