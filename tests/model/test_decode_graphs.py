"""Recorded steps of single tokens: the path of a CUDA device, with its kernel and its recorder replaced on a CPU."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwire.engine import decode_graphs, local
from qwire.engine.arithmetic import product_by_torch
from qwire.engine.config import EngineConfig
from qwire.engine.cuda_graph import Recording
from qwire.engine.decode_graphs import DecodeGraphs, row_counts
from qwire.engine.flash_attention import PAGE_TOKENS, FlashAttention
from qwire.engine.interruption import StepInterrupted
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel, load_model
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.segment import Segment
from qwire.engine.step_plan import StepPlan
from qwire.engine.transformers_decoder import TransformersDecoder
from qwire.engine.transformers_loader import load_transformers
from tests.support.log_lines import collected_log_lines
from tests.support.peft_adapter import base_model, greedy, with_adapter, write_adapter
from tests.support.qwen_families import write_family
from tests.support.traced_recorder import TracedRecorder
from tests.support.varlen import varlen

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
Record = Callable[[Callable[[], Tensor]], Recording]
OUTPUT_TOKENS = 12
# Some cross the end of a page, some the end of the second one, while they write.
LENGTHS = [1, 2, 9, 60, 250, 255, 256, 257, 505, 520]


def load_as_on_cuda(folder: Path, source_format: str, config: EngineConfig, **options: Any) -> LoadedModel:
    """Load onto a CPU what would be loaded onto a CUDA device."""
    loaded = load_model(folder, source_format, config, **options)
    decoder, facts = load_transformers(folder, source_format, config, loaded.device, loaded.dtype)
    return replace(
        loaded,
        decoder=decoder,
        quantization=facts,
        page_tokens=config.page_tokens or PAGE_TOKENS,
        paged_attention=FlashAttention(varlen),
        exact=product_by_torch,
    )


def always(record: Record) -> Callable[[torch.device], Record]:
    """Return what makes this recorder for any device."""

    def of(_device: torch.device) -> Record:
        return record

    return of


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> TracedRecorder:
    """Have engines run as on CUDA, and count what is recorded and replayed."""
    recorder = TracedRecorder()
    monkeypatch.setattr(local, "load_model", load_as_on_cuda)
    monkeypatch.setattr(decode_graphs, "CudaRecorder", always(recorder))
    return recorder


def prompts() -> list[tuple[int, ...]]:
    random_source = random.Random(9)  # noqa: S311 - the same prompts each time
    return [tuple(random_source.randrange(4, 500) for _ in range(length)) for length in LENGTHS]


async def output_of(engine: LocalEngine, request: TokenRequest) -> list[int]:
    return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]


def asking(index: int, **options: Any) -> TokenRequest:
    stop = StopParams(OUTPUT_TOKENS, ignore_eos=True)
    return TokenRequest(prompts()[index], Envelope(f"{index}{options}"), stop, **options)


async def outputs(engine: LocalEngine, **options: Any) -> list[list[int]]:
    requests = [asking(index, **options) for index in range(len(LENGTHS))]
    return list(await asyncio.gather(*(output_of(engine, request) for request in requests)))


@pytest.mark.parametrize("family", ["qwen2-small", "qwen3-large", "qwen3-moe", "qwen3-moe-mixed"])
@pytest.mark.parametrize("max_running", [1, 3, 16])
async def test_replayed_steps_write_what_generate_writes(
    tmp_path: Path, start_engine: StartEngine, recorder: TracedRecorder, family: str, max_running: int
) -> None:
    folder = write_family(family, tmp_path)
    engine = await start_engine(folder, max_running=max_running)
    model = base_model(folder)
    assert await outputs(engine) == [greedy(model, prompt, OUTPUT_TOKENS) for prompt in prompts()]
    assert recorder.recorded == len(row_counts(max_running))
    assert recorder.replays > recorder.recorded
    assert (await engine.stats()).kv_used_tokens == 0


async def test_experts_that_the_host_looks_up_are_computed(
    tmp_path: Path, start_engine: StartEngine, recorder: TracedRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on devices that have no product of groups."""

    def load(*arguments: Any, **options: Any) -> LoadedModel:
        loaded = load_as_on_cuda(*arguments, **options)
        assert isinstance(loaded.decoder, TransformersDecoder)
        model: Any = loaded.decoder._decoder  # pyright: ignore[reportPrivateUsage] - nobody else chooses it
        model.set_experts_implementation("eager")
        return loaded

    monkeypatch.setattr(local, "load_model", load)
    folder = write_family("qwen3-moe", tmp_path)
    with collected_log_lines() as lines:
        engine = await start_engine(folder)
        model = base_model(folder)
        assert await outputs(engine) == [greedy(model, prompt, OUTPUT_TOKENS) for prompt in prompts()]
    (line,) = lines.of("decode_graphs_unavailable")
    assert "data-dependent" in line["reason"]
    assert not recorder.recorded


async def test_sampled_output_is_that_of_steps_that_are_not_replayed(
    tiny_model: Path, start_engine: StartEngine, recorder: TracedRecorder
) -> None:
    sampling = SamplingParams(temperature=1.5, top_p=0.9, seed=4)
    plain = await outputs(await start_engine(tiny_model, decode_graphs=False), sampling=sampling)
    assert not recorder.recorded
    assert await outputs(await start_engine(tiny_model), sampling=sampling) == plain
    assert recorder.replays > recorder.recorded


async def test_steps_with_adapters_are_computed(
    tiny_qwen2: Path, start_engine: StartEngine, recorder: TracedRecorder, tmp_path: Path
) -> None:
    write_adapter(tiny_qwen2, tmp_path / "one")
    models = {"": base_model(tiny_qwen2), "one": with_adapter(tiny_qwen2, tmp_path / "one")}
    engine = await start_engine(tiny_qwen2, adapters_dir=tmp_path)
    mixed = [(index, name) for index in range(4) for name in models]
    got = await asyncio.gather(*(output_of(engine, asking(index, adapter=name)) for index, name in mixed))
    assert got == [greedy(models[name], prompts()[index], OUTPUT_TOKENS) for index, name in mixed]
    replays = recorder.replays
    assert await output_of(engine, asking(4, adapter="one")) == greedy(models["one"], prompts()[4], OUTPUT_TOKENS)
    assert recorder.replays == replays


@pytest.mark.parametrize("speculation", ["prompt-lookup", "draft-model"])
@pytest.mark.usefixtures("recorder")
async def test_steps_with_drafts_are_computed(
    tiny_qwen2: Path, start_engine: StartEngine, speculation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwire.engine.speculation.load_model", load_as_on_cuda)
    plain = await outputs(await start_engine(tiny_qwen2, decode_graphs=False))
    draft = {"draft": tiny_qwen2} if speculation == "draft-model" else {"lookup_least_tokens": 1}
    engine = await start_engine(tiny_qwen2, speculation=speculation, **draft)
    assert await outputs(engine) == plain
    assert (await engine.stats()).drafted_tokens


def wrong(function: Callable[[], Tensor]) -> Recording:
    recording = TracedRecorder()(function)

    def replay() -> None:
        recording.replay()
        recording.output[-1].neg_()

    return Recording(replay, recording.output)


def forgetful(function: Callable[[], Tensor]) -> Recording:
    """Replay the output, and not what a step writes beside it."""

    def write_nothing(*_arguments: object) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVPool, "write", write_nothing)
        return TracedRecorder()(function)


def refused(_function: Callable[[], Tensor]) -> Recording:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(("record", "reason"), [(wrong, "differs"), (forgetful, "differs"), (refused, "not permitted")])
@pytest.mark.usefixtures("recorder")
async def test_what_cannot_be_recorded_is_computed(
    tiny_qwen2: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch, record: Record, reason: str
) -> None:
    plain = await outputs(await start_engine(tiny_qwen2))
    monkeypatch.setattr(decode_graphs, "CudaRecorder", always(record))
    with collected_log_lines() as lines:
        engine = await start_engine(tiny_qwen2)
        assert await outputs(engine) == plain
    (line,) = lines.of("decode_graphs_unavailable")
    assert reason in line["reason"]


@pytest.fixture
def graphs(tiny_qwen2: Path) -> DecodeGraphs:
    """Recordings of up to 3 sequences, and a pool of 4 pages and a spare one."""
    loaded = load_as_on_cuda(tiny_qwen2, "", EngineConfig(device="cpu", quantization="none"))
    pool = KVPool(loaded.kv_shape, 5, PAGE_TOKENS)
    with torch.inference_mode():
        graphs = DecodeGraphs(
            loaded.decoder, pool, FlashAttention(varlen), most_rows=3, most_pages=2, record=TracedRecorder()
        )
        for half in pool.layer(0):
            half[: 4 * PAGE_TOKENS].fill_(torch.nan)
    return graphs


@torch.inference_mode()
def test_rows_without_a_sequence_touch_none(graphs: DecodeGraphs) -> None:
    segments = [Segment((page,), 0, 1) for page in range(3)]
    together = graphs.hidden([5, 6, 7], segments)
    assert together is not None
    together = together.clone()
    for index in range(3):
        alone = graphs.hidden([5 + index], segments[index : index + 1])
        assert alone is not None
        torch.testing.assert_close(alone[0], together[index])
    graphs.hidden([9, 9], [Segment((3,), 0, 1), Segment((2,), 1, 1)])
    keys, _ = graphs._pool.layer(0)  # pyright: ignore[reportPrivateUsage] - who wrote where is the subject
    written = keys[: 4 * PAGE_TOKENS, 0, 0].isfinite().nonzero().flatten().tolist()
    assert written == [0, PAGE_TOKENS, 2 * PAGE_TOKENS, 2 * PAGE_TOKENS + 1, 3 * PAGE_TOKENS]


@torch.inference_mode()
def test_more_sequences_than_recorded_are_left_to_others(graphs: DecodeGraphs) -> None:
    assert graphs.hidden([5] * 4, [Segment((page,), 0, 1) for page in range(4)]) is None


def test_few_numbers_of_sequences_are_recorded() -> None:
    assert row_counts(1) == [1]
    assert row_counts(3) == [1, 2, 3]
    assert row_counts(16) == [1, 2, 4, 8, 16]
    assert row_counts(30) == [1, 2, 4, 8, 16, 24, 30]


async def test_a_step_that_is_given_up_is_not_replayed(
    tiny_qwen2: Path, start_engine: StartEngine, recorder: TracedRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, given_up = ModelRunner.execute, list[bool]()

    def interrupted(runner: ModelRunner, plan: StepPlan) -> StepResult:
        if not plan.is_plain_decode or given_up:
            return execute(runner, plan)
        runner.interruption.request()
        before = recorder.replays
        with pytest.raises(StepInterrupted):
            execute(runner, plan)
        given_up.append(recorder.replays == before)
        raise StepInterrupted

    monkeypatch.setattr(ModelRunner, "execute", interrupted)
    engine = await start_engine(tiny_qwen2)
    assert await output_of(engine, asking(3)) == greedy(base_model(tiny_qwen2), prompts()[3], OUTPUT_TOKENS)
    assert given_up == [True]
