"""Tiny random Qwen models, and engines over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.protocol import EngineStats
from qwire.models.checkpoint import Checkpoint

EOS = 3
SIZES: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    # Large enough that the best two logits are far apart: no draw hangs on the last bits of a sum.
    "initializer_range": 0.4,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny products only lose by being shared, and machines that test are busy."""
    torch.set_num_threads(1)


def _save(model: PreTrainedModel, folder: Path) -> Path:
    # Biases and norms are not random by default; a model that ignored them would pass.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with a language head of its own."""
    torch.manual_seed(1)
    config = Qwen2Config(**SIZES, tie_word_embeddings=False)
    return _save(Qwen2ForCausalLM(config), tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 whose language head is its embedding."""
    torch.manual_seed(2)
    config = Qwen3Config(**SIZES, tie_word_embeddings=True)
    return _save(Qwen3ForCausalLM(config), tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(params=["tiny_qwen2", "tiny_qwen3"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Each of the tiny models."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def until() -> Callable[[LocalEngine, Callable[[EngineStats], bool]], Awaitable[EngineStats]]:
    """Wait until an engine's statistics are as wanted, and return them."""

    async def wait(engine: LocalEngine, wanted: Callable[[EngineStats], bool]) -> EngineStats:
        while not wanted(stats := await engine.stats()):  # noqa: ASYNC110 - an engine announces no state
            await asyncio.sleep(0.001)
        return stats

    return wait


@pytest.fixture
def copy_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint folder like another one, without some of its files."""

    def copy(folder: Path, *, without: str) -> Path:
        for path in folder.iterdir():
            if path.name != without:
                (tmp_path / path.name).symlink_to(path)
        return tmp_path

    return copy


@pytest.fixture
async def start_engine() -> AsyncGenerator[Callable[..., Awaitable[LocalEngine]]]:
    """Start engines over a folder, by the options of `EngineConfig`, with a `draft` model or without; they are closed
    at the end."""
    engines: list[LocalEngine] = []

    async def start(folder: Path, *, draft: Path | None = None, **options: Any) -> LocalEngine:
        checkpoint = Checkpoint(folder, "tiny", "revision", "", "w" * 64, "t" * 64)
        defaults: dict[str, Any] = {"device": "cpu", "threads": 1, "quantization": "none"}
        config = EngineConfig(**{**defaults, **options})
        drafting = None if draft is None else Checkpoint(draft, "draft", "revision", "", "d" * 64, "t" * 64)
        engines.append(await LocalEngine.start(checkpoint, config, drafting))
        return engines[-1]

    yield start
    for engine in engines:
        await engine.close()


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the kernel's tests compile it, once for each path."""
    return tmp_path_factory.mktemp("kernels")
