"""Log-probabilities of a prompt are the model's, each told once, whatever happens to the request on its way."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from qwire.engine.chunk import MAX_PROMPT_RECORDS, TokenChunk, TokenLogprobs
from qwire.engine.errors import InvalidRequest, NumericalError
from qwire.engine.local import LocalEngine
from qwire.engine.prompt_scorer import ROWS
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from tests.support.log_lines import collected_log_lines

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
STOP = StopParams(6, ignore_eos=True)
LENGTHS = (1, 2, 16, ROWS, ROWS + 1, ROWS + 2, 150, MAX_PROMPT_RECORDS + 3)


@functools.cache
def prompts() -> list[tuple[int, ...]]:
    """Return prompts that begin alike."""
    source = random.Random(3)  # noqa: S311 - the same prompts each time
    longest = tuple(source.randrange(4, 1000) for _ in range(max(LENGTHS)))
    return [longest[:length] for length in LENGTHS]


@functools.cache
def logprobs_of(folder: Path) -> Tensor:
    """Return the log-softmax at each position of the longest prompt, `[tokens, vocabulary]`."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        return model(torch.tensor([prompts()[-1]])).logits[0].double().log_softmax(dim=-1)


def request(name: str, prompt: tuple[int, ...], top: int | None = 4, sampling: SamplingParams | None = None):
    return TokenRequest(prompt, Envelope(name), STOP, sampling or SamplingParams(), prompt_logprobs=top)


async def chunks_of(engine: LocalEngine, request: TokenRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(request)]


def records_of(chunks: list[TokenChunk]) -> list[TokenLogprobs | None]:
    """Return the prompt's records; no chunk has too many, and none comes with or after a token."""
    told = [chunk for chunk in chunks if chunk.prompt_logprobs]
    assert chunks[: len(told)] == told
    assert all(not chunk.token_ids and len(chunk.prompt_logprobs) <= MAX_PROMPT_RECORDS for chunk in told)
    return [record for chunk in told for record in chunk.prompt_logprobs]


def tokens_of(chunks: list[TokenChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


def assert_told(folder: Path, prompt: tuple[int, ...], records: list[TokenLogprobs | None], top: int = 4) -> None:
    assert len(records) == len(prompt)
    assert records[0] is None
    for row, token_id, record in zip(logprobs_of(folder), prompt[1:], records[1:], strict=False):
        assert record is not None
        assert record.logprob == pytest.approx(row[token_id].item(), abs=1e-3)
        assert len(record.top) == top
        assert [logprob for _, logprob in record.top] == pytest.approx(row.topk(top).values.tolist(), abs=1e-3)
        assert [one for one, _ in record.top[:1]] == [row.argmax().item()][:top]


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_records_are_the_models_own_and_asking_changes_nothing(
    tiny_model: Path, start_engine: StartEngine, top: int
) -> None:
    engine = await start_engine(tiny_model, max_running=16, max_step_tokens=64)
    sampling = SamplingParams(temperature=10.0, top_k=20, repetition_penalty=2.0, seed=1)
    asked = [request(f"asked {index}", prompt, top, sampling) for index, prompt in enumerate(prompts())]
    silent = [request(f"silent {index}", prompt, None, sampling) for index, prompt in enumerate(prompts())]
    results = await asyncio.gather(*(chunks_of(engine, one) for one in (*asked, *silent)))
    for prompt, told, untold in zip(prompts(), results[: len(asked)], results[len(asked) :], strict=True):
        assert_told(tiny_model, prompt, records_of(told), top)
        assert records_of(untold) == []
        assert tokens_of(told) == tokens_of(untold)


async def test_a_known_beginning_is_read_again_for_who_asks_and_kept_for_others(
    tiny_qwen2: Path, start_engine: StartEngine
) -> None:
    engine = await start_engine(tiny_qwen2)
    prompt = prompts()[-1]
    cached: list[int] = []
    for name, top in (("first", None), ("asks", 4), ("again", 4), ("last", None)):
        chunks = await chunks_of(engine, request(name, prompt, top))
        finish = chunks[-1].finish
        assert finish is not None
        cached.append(finish.cached_prompt_tokens)
        if top is not None:
            assert_told(tiny_qwen2, prompt, records_of(chunks))
    assert cached[:3] == [0, 0, 0]
    assert cached[3] > len(prompt) - 20


@pytest.mark.parametrize("prefix_reuse", [True, False])
async def test_each_token_is_told_once_in_little_memory(
    tiny_qwen2: Path, start_engine: StartEngine, *, prefix_reuse: bool
) -> None:
    engine = await start_engine(
        tiny_qwen2, max_running=8, kv_capacity_tokens=300, page_tokens=4, max_step_tokens=24, prefix_reuse=prefix_reuse
    )
    long = replace(STOP, max_output_tokens=40)
    crowd = [
        replace(request(f"{index}", prompts()[index % len(LENGTHS)], 4 if index % 3 else None), stop=long)
        for index in range(24)
    ]
    with collected_log_lines() as lines:
        results = await asyncio.gather(*(chunks_of(engine, one) for one in crowd))
    assert lines.of("generation_preempted")
    for one, chunks in zip(crowd, results, strict=True):
        if one.prompt_logprobs is None:
            assert records_of(chunks) == []
        else:
            assert_told(tiny_qwen2, one.prompt_token_ids, records_of(chunks))
    stats = await engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used_tokens) == (0, 0, 0)


async def test_it_is_told_beside_output_that_exists(tiny_qwen2: Path, start_engine: StartEngine) -> None:
    engine = await start_engine(tiny_qwen2)
    prompt = prompts()[4]
    whole = await chunks_of(engine, request("whole", prompt))
    rest = await chunks_of(engine, replace(request("rest", prompt), output_token_ids=tuple(tokens_of(whole)[:2])))
    assert tokens_of(rest) == tokens_of(whole)[2:]
    assert_told(tiny_qwen2, prompt, records_of(rest))


async def test_a_prompt_that_is_not_finite_fails_alone(
    tiny_qwen2: Path, start_engine: StartEngine, copy_checkpoint: Callable[..., Path]
) -> None:
    healthy = [request(f"healthy {index}", prompt) for index, prompt in enumerate(prompts()[:5])]
    clean = await start_engine(tiny_qwen2)
    expected = [tokens_of(await chunks_of(clean, one)) for one in healthy]
    used = {token_id for tokens in (*expected, *prompts()) for token_id in tokens}
    poison = min(set(range(500, 1000)) - used)
    folder = copy_checkpoint(tiny_qwen2, without="model.safetensors")
    weights = load_file(tiny_qwen2 / "model.safetensors")
    # What is read before the poison stays well, so that its row is in the midst of good ones.
    weights["model.embed_tokens.weight"][poison] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    engine = await start_engine(folder, max_running=16, max_step_tokens=16)
    before, after = prompts()[3], prompts()[2]
    ill = [request("in a later step", (*before, poison, *after)), request("in the only step", (7, poison, 8))]
    results = await asyncio.gather(*(chunks_of(engine, one) for one in (*healthy, *ill)), return_exceptions=True)
    assert [type(result) for result in results[len(healthy) :]] == [NumericalError, NumericalError]
    for one, result, tokens in zip(healthy, results, expected, strict=False):
        assert isinstance(result, list)
        assert tokens_of(result) == tokens
        assert_told(tiny_qwen2, one.prompt_token_ids, records_of(result))
    assert (await engine.stats()).kv_used_tokens == 0


@pytest.mark.parametrize("top", [-1, 21])
async def test_what_is_out_of_range_is_refused(tiny_qwen2: Path, start_engine: StartEngine, top: int) -> None:
    engine = await start_engine(tiny_qwen2)
    with pytest.raises(InvalidRequest, match=r"output\.prompt_logprobs"):
        await chunks_of(engine, request("a", (4, 5), top))
