"""Output is the same with drafts and without, whoever drafts and however tokens are drawn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from qwire.engine.chunk import Finish, FinishReason, TokenLogprobs
from qwire.engine.errors import GenerationCancelled
from qwire.engine.interruption import StepInterrupted
from qwire.engine.local import LocalEngine
from qwire.engine.protocol import EngineStats
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.step_plan import StepPlan
from tests.support.log_lines import collected_log_lines

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
Until = Callable[[LocalEngine, Callable[[EngineStats], bool]], Awaitable[EngineStats]]
OUTPUT_TOKENS = 40
FEW = tuple((token_id, 60.0) for token_id in (11, 12, 13))
"""A bias to three tokens, among which the model chooses: an output that repeats itself, so that lookup finds much."""
SAMPLINGS = [
    SamplingParams(logit_bias=FEW),
    SamplingParams(),
    SamplingParams(temperature=10.0, logit_bias=FEW, seed=1),
    SamplingParams(temperature=10.0, top_k=30, logit_bias=FEW, seed=2),
    SamplingParams(temperature=10.0, top_p=0.8, seed=3),
    SamplingParams(temperature=10.0, min_p=0.05, logit_bias=FEW, seed=4),
    SamplingParams(repetition_penalty=1.3, presence_penalty=1.0, frequency_penalty=0.5, logit_bias=FEW),
    SamplingParams(repetition_penalty=2.0, temperature=8.0, top_k=5, top_p=0.95, logit_bias=FEW, seed=5),
]


@dataclass(frozen=True)
class Answer:
    token_ids: tuple[int, ...]
    reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...]
    finish: Finish


def requests(stop: StopParams | None = None) -> list[TokenRequest]:
    source = random.Random(12)  # noqa: S311 - the same prompts each time
    stop = stop or StopParams(OUTPUT_TOKENS, ignore_eos=True)
    return [
        TokenRequest(
            tuple(source.randrange(4, 1000) for _ in range(length)),
            Envelope(str(index)),
            stop,
            sampling,
            top_logprobs=index % 2 or None,
        )
        for index, (length, sampling) in enumerate(zip((1, 9, 30, 64, 65, 80, 120, 300), SAMPLINGS, strict=True))
    ]


async def answer(engine: LocalEngine, request: TokenRequest) -> Answer:
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    finish: Finish | None = None
    async for chunk in engine.generate(request):
        token_ids += chunk.token_ids
        logprobs += chunk.logprobs
        finish = chunk.finish
    assert finish is not None
    return Answer(tuple(token_ids), finish.reason, tuple(logprobs), finish)


async def answers(engine: LocalEngine, asked: list[TokenRequest]) -> list[Answer]:
    return await asyncio.gather(*(answer(engine, request) for request in asked))


def assert_same(got: list[Answer], expected: list[Answer]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.reason, one.finish.stop_token_id) == (other.reason, other.finish.stop_token_id)
        for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
            assert [token_id for token_id, _ in mine.top] == [token_id for token_id, _ in theirs.top]


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model of the same vocabulary, which says something else."""
    torch.manual_seed(9)
    config = Qwen2Config(
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.4,
        max_position_embeddings=2048,
        eos_token_id=3,
        bos_token_id=None,
        pad_token_id=None,
    )
    folder = tmp_path_factory.mktemp("stranger")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


LOOKUP: dict[str, Any] = {"speculation": "prompt-lookup", "lookup_least_tokens": 1}
DRAFT: dict[str, Any] = {"speculation": "draft-model", "draft_tokens": 3}


@pytest.mark.parametrize("max_step_tokens", [24, 256])
async def test_prompt_lookup_changes_nothing_but_the_number_of_steps(
    tiny_model: Path, start_engine: StartEngine, max_step_tokens: int
) -> None:
    plain = await start_engine(tiny_model, max_running=8)
    expected = await answers(plain, requests())
    engine = await start_engine(tiny_model, max_running=8, max_step_tokens=max_step_tokens, **LOOKUP)
    got = await answers(engine, requests())
    assert_same(got, expected)
    stats = await engine.stats()
    assert 0 < stats.accepted_tokens < stats.drafted_tokens
    assert stats.accepted_tokens == sum(one.finish.accepted_tokens for one in got)
    assert stats.drafted_tokens == sum(one.finish.drafted_tokens for one in got)
    assert all(one.finish.drafted_tokens == 0 for one in expected)
    # Alone, each accepted token is a step less.
    before = stats.steps
    (alone,) = await answers(engine, requests()[:1])
    assert alone.finish.accepted_tokens > 0
    steps = (await engine.stats()).steps - before
    assert steps == len(alone.token_ids) - alone.finish.accepted_tokens


async def test_who_leaves_early_knows_what_was_drafted(tiny_model: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_model, draft=tiny_model, **DRAFT)
    async with aclosing(engine.generate(requests()[0])) as chunks:
        async for chunk in chunks:
            if chunk.accepted_tokens:
                break
        else:
            pytest.fail("it ended")
    stats = await engine.stats()
    assert 0 < chunk.accepted_tokens <= chunk.drafted_tokens <= stats.drafted_tokens


async def test_a_model_that_drafts_for_itself_is_always_right(tiny_model: Path, start_engine: StartEngine) -> None:
    plain = await start_engine(tiny_model, max_running=8)
    engine = await start_engine(tiny_model, draft=tiny_model, max_running=8, **DRAFT)
    asked = requests()
    assert_same(await answers(engine, asked), await answers(plain, asked))
    stats = await engine.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > len(asked) * OUTPUT_TOKENS / 2


async def test_a_bad_draft_model_changes_nothing(tiny_model: Path, stranger: Path, start_engine: StartEngine) -> None:
    plain = await start_engine(tiny_model, max_running=8)
    engine = await start_engine(tiny_model, draft=stranger, max_running=8, **DRAFT)
    asked = [replace(request, sampling=replace(request.sampling, logit_bias=())) for request in requests()]
    assert_same(await answers(engine, asked), await answers(plain, asked))
    stats = await engine.stats()
    assert stats.accepted_tokens < stats.drafted_tokens / 2


async def test_a_long_prompt_is_drafted_for_once_the_draft_model_has_caught_up(
    tiny_qwen2: Path, start_engine: StartEngine
) -> None:
    engine = await start_engine(tiny_qwen2, draft=tiny_qwen2, max_step_tokens=32, **DRAFT)
    (one,) = await answers(engine, [requests()[-1]])
    assert len(one.token_ids) == OUTPUT_TOKENS
    # 300 tokens take the draft model ten steps, and the rest is drafted.
    assert one.finish.accepted_tokens == one.finish.drafted_tokens > OUTPUT_TOKENS / 3


@pytest.mark.parametrize("most", [1, 2, 3, 7])
async def test_the_limit_is_reached_exactly(tiny_qwen2: Path, start_engine: StartEngine, most: int) -> None:
    asked = requests(StopParams(most, ignore_eos=True))
    expected = await answers(await start_engine(tiny_qwen2), asked)
    for options in (LOOKUP, {**DRAFT, "draft": tiny_qwen2, "draft_tokens": 5}):
        got = await answers(await start_engine(tiny_qwen2, **options), asked)
        assert_same(got, expected)
        assert {(len(one.token_ids), one.reason) for one in got} == {(most, FinishReason.LENGTH)}


async def test_a_stop_token_in_a_draft_ends_the_output(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    plain = await start_engine(tiny_qwen2)
    engine = await start_engine(tiny_qwen2, draft_tokens=8, **LOOKUP)
    request = requests()[0]
    whole = (await answer(plain, request)).token_ids
    for cut in range(1, OUTPUT_TOKENS - 1):
        stop = replace(
            request.stop, stop_token_ids=frozenset(whole[cut : cut + 1]), min_output_tokens=whole.index(whole[cut])
        )
        asked = [replace(request, stop=stop)]
        assert_same(await answers(engine, asked), await answers(plain, asked))


@pytest.mark.parametrize("options", [LOOKUP, DRAFT], ids=["lookup", "draft"])
async def test_output_survives_the_loss_of_memory(
    tiny_qwen2: Path, start_engine: StartEngine, options: dict[str, Any]
) -> None:
    draft = {"draft": tiny_qwen2} if options is DRAFT else {}
    asked = requests()[:7]
    expected = await answers(await start_engine(tiny_qwen2), asked)
    engine = await start_engine(tiny_qwen2, kv_capacity_tokens=240, page_tokens=4, **options, **draft)
    with collected_log_lines() as lines:
        got = await answers(engine, asked)
    assert_same(got, expected)
    assert lines.of("generation_preempted")
    stats = await engine.stats()
    assert stats.accepted_tokens > 0
    assert stats.kv_used_tokens == 0
    engine._cache.check_integrity()  # pyright: ignore[reportPrivateUsage] - only an idle engine's may be looked at


async def test_what_finds_no_room_in_the_draft_models_memory_goes_on_without(
    tiny_qwen2: Path, start_engine: StartEngine
) -> None:
    # The model keeps what all prompts begin with once, the draft model once for each.
    common = tuple(range(100, 240))
    asked = [
        replace(request, prompt_token_ids=(*common, index + 10), sampling=SamplingParams(temperature=10.0, seed=index))
        for index, request in enumerate(requests())
    ]
    memory: dict[str, Any] = {"kv_capacity_tokens": 600, "page_tokens": 4}
    plain = await start_engine(tiny_qwen2, **memory)
    engine = await start_engine(tiny_qwen2, draft=tiny_qwen2, **memory, **DRAFT)
    await answer(plain, replace(asked[0], envelope=Envelope("first")))
    await answer(engine, replace(asked[0], envelope=Envelope("first")))
    got = await answers(engine, asked)
    assert_same(got, await answers(plain, asked))
    drafted = [one.finish.drafted_tokens for one in got]
    assert min(drafted) < OUTPUT_TOKENS / 2 < max(drafted)


async def test_output_is_the_same_after_a_resume_at_every_cut(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2, draft=tiny_qwen2, **DRAFT)
    request = requests()[2]
    whole = (await answer(engine, request)).token_ids
    for cut in range(OUTPUT_TOKENS):
        rest = await answer(engine, replace(request, output_token_ids=whole[:cut]))
        assert whole[:cut] + rest.token_ids == whole


async def test_after_a_step_that_was_given_up_there_is_a_draft_again(
    tiny_qwen2: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine(tiny_qwen2, draft=tiny_qwen2, prefix_reuse=False, **DRAFT)
    expected = await answer(engine, requests()[0])
    steps = (await engine.stats()).steps
    execute, drafted = ModelRunner.execute, 0

    def interrupted(runner: ModelRunner, plan: StepPlan) -> StepResult:
        nonlocal drafted
        drafted += any(tokens.draft for tokens in plan.scheduled)
        if drafted == 3:
            drafted += 1
            raise StepInterrupted
        return execute(runner, plan)

    monkeypatch.setattr(ModelRunner, "execute", interrupted)
    assert_same([await answer(engine, requests()[0])], [expected])
    assert (await engine.stats()).steps - steps == steps + 1


@pytest.mark.parametrize("options", [LOOKUP, DRAFT], ids=["lookup", "draft"])
async def test_cancelled_and_left_generations_leave_nothing_behind(
    tiny_qwen2: Path, start_engine: StartEngine, until: Until, options: dict[str, Any]
) -> None:
    draft = {"draft": tiny_qwen2} if options is DRAFT else {}
    engine = await start_engine(tiny_qwen2, **options, **draft)
    expected = (await answer(engine, requests()[0])).token_ids
    long = replace(requests()[0], stop=StopParams(1500, ignore_eos=True))
    seen: list[int] = []
    with pytest.raises(GenerationCancelled):  # noqa: PT012 - the loop is what is cancelled
        async for chunk in engine.generate(long):
            seen += chunk.token_ids
            if len(seen) > 20:
                await engine.cancel(long.envelope.request_id)
    assert tuple(seen[:20]) == expected[:20]
    chunks = engine.generate(long)
    await anext(chunks)
    await chunks.aclose()
    stats = await until(engine, lambda stats: stats.running == 0)
    assert stats.kv_used_tokens == 0
    assert (await answer(engine, requests()[0])).token_ids == expected


async def test_q8_gives_the_same_bits_with_drafts_and_without(
    tiny_model: Path, start_engine: StartEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    q8: dict[str, Any] = {"quantization": "q8", "kernel_dir": tmp_path_factory.getbasetemp() / "q8-kernels"}
    asked = [replace(request, top_logprobs=5) for request in requests()]
    expected = await answers(await start_engine(tiny_model, **q8), asked)
    for options in (LOOKUP, {**DRAFT, "draft": tiny_model}):
        engine = await start_engine(tiny_model, **q8, **options)
        got = await answers(engine, asked)
        assert [(one.token_ids, one.logprobs) for one in got] == [(one.token_ids, one.logprobs) for one in expected]
        assert (await engine.stats()).accepted_tokens > 0


async def test_a_transformers_model_takes_drafts(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    asked = [replace(request, top_logprobs=None) for request in requests()[:4]]
    expected = await answers(await start_engine(tiny_qwen2, quantization="nf4"), asked)
    engine = await start_engine(tiny_qwen2, quantization="nf4", **LOOKUP)
    assert_same(await answers(engine, asked), expected)
    assert (await engine.stats()).accepted_tokens > 0
