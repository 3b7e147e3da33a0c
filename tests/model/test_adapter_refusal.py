"""Adapters that cannot be applied are refused with the reason; nothing else notices."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwire.engine.adapter_loader import AdapterLoader
from qwire.engine.errors import (
    AdapterNotFound,
    AdapterUnusable,
    DeadlineExceeded,
    EngineUnavailable,
    GenerationCancelled,
    InvalidRequest,
    QueueFull,
)
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from tests.support.peft_adapter import write_adapter

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
Weights = dict[str, Tensor]
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
UP = "base_model.model.model.layers.2.mlp.up_proj.lora_{}.weight"


def asking(adapter: str, name: str = "", **envelope: Any) -> TokenRequest:
    stop = StopParams(5, ignore_eos=True)
    return TokenRequest((4, 5, 6), Envelope(name or adapter, **envelope), stop, adapter=adapter)


async def output_of(engine: LocalEngine, request: TokenRequest) -> list[int]:
    return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(weights: Weights, *names: str) -> Weights:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(names)}


def renamed(weights: Weights, old: str, new: str) -> Weights:
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


REFUSED: Mapping[str, tuple[Callable[[Weights], Weights], str]] = {
    "rank": (lambda w: w | {Q.format("A"): torch.ones(5, 64)}, r"\[5, 64\].*\[4, 64\]"),
    "columns": (lambda w: w | {Q.format("A"): torch.ones(4, 65)}, r"\[4, 65\].*\[4, 64\]"),
    "rows": (lambda w: w | {Q.format("B"): torch.ones(64, 4)}, r"\[64, 4\].*\[128, 4\]"),
    "dimensions": (lambda w: w | {UP.format("B"): torch.ones(4)}, r"\[4\].*\[128, 4\]"),
    "half": (lambda w: without(w, Q.format("A")), "missing"),
    "layer": (lambda w: renamed(w, "layers.0", "layers.3"), r"layers\.3"),
    "one layer less": (lambda w: without(w, Q.format("A"), Q.format("B")), "disagree"),
    "embedding": (lambda w: w | {"base_model.model.model.embed_tokens.weight": torch.ones(9, 64)}, "embed_tokens"),
    "head": (lambda w: w | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)}, "lm_head"),
    "expert": (lambda w: renamed(w, "mlp.up_proj", "mlp.experts.0.up_proj"), r"experts\.0"),
    "magnitude": (lambda w: w | {Q.format("magnitude_vector"): torch.ones(128)}, "magnitude"),
    "bias": (lambda w: w | {"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(128)}, "bias"),
    "whole numbers": (lambda w: w | {Q.format("A"): torch.ones(4, 64, dtype=torch.int32)}, "int32"),
    "nan": (lambda w: w | {Q.format("A"): torch.full((4, 64), torch.nan)}, "not finite"),
    "infinity": (lambda w: w | {UP.format("B"): torch.full((128, 4), torch.inf)}, "not finite"),
    "nothing": (lambda _: {}, "no tensors"),
}


@pytest.fixture
def adapters(tiny_qwen3: Path, tmp_path: Path) -> Path:
    """A folder with a good adapter `good` and one to break, `bad`."""
    for name in ("good", "bad"):
        write_adapter(tiny_qwen3, tmp_path / name)
    return tmp_path


async def test_weights_that_do_not_fit_are_refused(tiny_qwen3: Path, adapters: Path, start_engine: StartEngine):
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters, max_adapters=1)
    path = adapters / "bad" / "adapter_model.safetensors"
    weights = load_file(path)
    for case, (change, told) in REFUSED.items():
        save_file(change(weights), path)
        with pytest.raises(AdapterUnusable, match=told):
            await output_of(engine, asking("bad", case))
        assert len(await output_of(engine, asking("good", case))) == 5
    save_file(weights, path)
    assert await output_of(engine, asking("bad")) == await output_of(engine, asking("good"))


async def test_files_that_are_damaged_are_refused(tiny_qwen3: Path, adapters: Path, start_engine: StartEngine):
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters)
    path = adapters / "bad" / "adapter_model.safetensors"
    content = path.read_bytes()
    header = b'{"a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'  # a type that torch does not have
    odd = len(header).to_bytes(8, "little") + header + b"0"
    for broken in (b"", b"\x80\x04pickle", content[:-1], content[: len(content) // 2], content[:8], b"\xff" * 99, odd):
        path.write_bytes(broken)
        with pytest.raises(AdapterUnusable, match="damaged or incomplete"):
            await output_of(engine, asking("bad"))
    path.write_bytes(content)
    change_config(adapters / "bad", use_dora=True)
    with pytest.raises(AdapterUnusable, match="use_dora"):
        await output_of(engine, asking("bad"))
    change_config(adapters / "bad", use_dora=False, target_modules=["q_proj", "w_proj"])
    with pytest.raises(AdapterUnusable, match="w_proj"):
        await output_of(engine, asking("bad"))
    change_config(adapters / "bad", target_modules=["q_proj"])
    with pytest.raises(AdapterUnusable, match="disagree"):
        await output_of(engine, asking("bad"))
    told = {info.adapter_id: info.problem for info in await engine.adapters()}
    assert told == {"bad": "", "good": ""}


async def test_another_models_adapter_is_refused(
    tiny_qwen2: Path, tmp_path: Path, start_engine: StartEngine, tmp_path_factory: pytest.TempPathFactory
):
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - one test's

    config = AutoConfig.from_pretrained(tiny_qwen2)
    config.intermediate_size = 96
    other = tmp_path_factory.mktemp("other")
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    write_adapter(other, tmp_path / "other")
    engine = await start_engine(tiny_qwen2, adapters_dir=tmp_path)
    with pytest.raises(AdapterUnusable, match=r"down_proj.*\[4, 96\].*\[4, 128\]"):
        await output_of(engine, asking("other"))


async def test_names_of_no_adapter_are_refused(tiny_qwen3: Path, adapters: Path, start_engine: StartEngine):
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters)
    with pytest.raises(AdapterNotFound) as unknown:
        await output_of(engine, asking("unknown"))
    assert unknown.value.adapter_id == "unknown"
    for name in ("..", "../good", "good/", ".", "x" * 129):
        with pytest.raises(InvalidRequest) as refused:
            await output_of(engine, asking(name))
        assert refused.value.field == "adapter"
    assert (await engine.card()).adapters
    without_adapters = await start_engine(tiny_qwen3)
    with pytest.raises(InvalidRequest, match="takes no adapters"):
        await output_of(without_adapters, asking("good"))
    assert not (await without_adapters.card()).adapters
    assert await without_adapters.adapters() == ()


async def test_a_folder_that_is_none_is_the_operators_mistake(
    tiny_qwen3: Path, adapters: Path, start_engine: StartEngine
):
    for wrong in (adapters / "gone", adapters / "good" / "adapter_config.json"):
        with pytest.raises(ValueError, match="adapters_dir"):
            await start_engine(tiny_qwen3, adapters_dir=wrong)
    with pytest.raises(ValueError, match="max_adapters"):
        await start_engine(tiny_qwen3, adapters_dir=adapters, max_adapters=0)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Adapters are loaded once it is set."""
    opened = threading.Event()
    load = AdapterLoader.load

    def wait(self: AdapterLoader, source: Any) -> Any:
        assert opened.wait(20)
        return load(self, source)

    monkeypatch.setattr(AdapterLoader, "load", wait)
    return opened


async def test_while_one_is_loaded_others_generate_and_it_can_be_cancelled(
    tiny_qwen3: Path, adapters: Path, start_engine: StartEngine, gate: threading.Event
):
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters)
    cancelled = asyncio.ensure_future(output_of(engine, asking("good", "cancelled")))
    patient = asyncio.ensure_future(output_of(engine, asking("good", "patient")))
    late = asking("good", "late", deadline_unix_ns=time.time_ns() + 200_000_000)
    with pytest.raises(DeadlineExceeded):
        await output_of(engine, late)
    assert len(await output_of(engine, asking("", "base"))) == 5
    with pytest.raises(InvalidRequest, match="runs already"):
        await output_of(engine, asking("good", "patient"))
    assert await engine.cancel("cancelled")
    assert not await engine.cancel("cancelled")
    with pytest.raises(GenerationCancelled):
        await cancelled
    assert not patient.done()
    gate.set()
    assert len(await patient) == 5
    assert [info.loaded for info in await engine.adapters()] == [False, True]


async def test_closing_ends_those_who_wait_for_an_adapter(
    tiny_qwen3: Path, adapters: Path, start_engine: StartEngine, gate: threading.Event
):
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters)
    waiting = asyncio.ensure_future(output_of(engine, asking("good")))
    await asyncio.wait({waiting}, timeout=0.1)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await waiting
    gate.set()


async def test_a_request_waits_until_an_adapter_in_use_is_free(
    tiny_qwen3: Path, adapters: Path, start_engine: StartEngine
):
    engine = await start_engine(tiny_qwen3, adapters_dir=adapters, max_adapters=1, max_waiting=1)
    running = engine.generate(asking("good", "running"))
    first = await anext(running)
    waiting = asyncio.ensure_future(output_of(engine, asking("bad", "waiting")))
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    with pytest.raises(QueueFull):
        await output_of(engine, asking("bad", "refused"))
    admitted = asyncio.ensure_future(output_of(engine, asking("bad", "goes-on", admitted=True)))
    assert len(await output_of(engine, asking("good", "beside"))) == 5
    rest = [token_id async for chunk in running for token_id in chunk.token_ids]
    output = await waiting
    assert len(await admitted) == 5
    assert [*first.token_ids, *rest] == output, "the two adapters are the same"
    assert [info.adapter_id for info in await engine.adapters() if info.loaded] == ["bad"]
