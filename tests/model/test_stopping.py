"""When a generation ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qwire.engine.chunk import Finish, FinishReason
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
PROMPT = (10, 20, 30)


async def run(
    engine: LocalEngine, stop: StopParams, output_token_ids: tuple[int, ...] = ()
) -> tuple[list[int], Finish]:
    output: list[int] = []
    finish: Finish | None = None
    request = TokenRequest(PROMPT, Envelope("a"), stop, output_token_ids=output_token_ids)
    async for chunk in engine.generate(request):
        assert finish is None
        output += chunk.token_ids
        finish = chunk.finish
    assert finish is not None
    return output, finish


@pytest.fixture
async def engine(tiny_qwen2: Path, start_engine: StartEngine) -> LocalEngine:
    return await start_engine(tiny_qwen2)


@pytest.fixture
async def free_output(engine: LocalEngine) -> list[int]:
    """What the model says when nothing stops it."""
    output, finish = await run(engine, StopParams(12, ignore_eos=True))
    assert (len(output), finish.reason, finish.stop_token_id) == (12, FinishReason.LENGTH, None)
    return output


async def test_a_stop_token_ends_the_output_and_is_part_of_it(engine: LocalEngine, free_output: list[int]) -> None:
    stop_token_id = free_output[5]
    cut = free_output.index(stop_token_id) + 1
    output, finish = await run(engine, StopParams(12, stop_token_ids=frozenset({stop_token_id, 999})))
    assert output == free_output[:cut]
    assert (finish.reason, finish.stop_token_id) == (FinishReason.STOP_TOKEN, stop_token_id)


async def test_a_stop_token_is_not_drawn_before_the_least_output(engine: LocalEngine, free_output: list[int]) -> None:
    stop = StopParams(12, min_output_tokens=7, stop_token_ids=frozenset(free_output[:1]))
    output, _ = await run(engine, stop)
    assert free_output[0] not in output[:7]
    assert len(output) >= 7


async def test_timings_are_in_order(engine: LocalEngine) -> None:
    _, finish = await run(engine, StopParams(5, ignore_eos=True))
    timings = finish.timings
    stations = (
        timings.arrived_unix_ns,
        timings.scheduled_unix_ns,
        timings.first_token_unix_ns,
        timings.finished_unix_ns,
    )
    assert list(stations) == sorted(stations)
    assert stations[0] > 0


async def test_the_end_of_the_turn_ends_the_output_unless_ignored(
    tiny_qwen2: Path, start_engine: StartEngine, free_output: list[int], copy_checkpoint: Callable[..., Path]
) -> None:
    eos = free_output[4]
    folder = copy_checkpoint(tiny_qwen2, without="generation_config.json")
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [998, {eos}]}}')
    engine = await start_engine(folder)
    assert (await engine.card()).eos_token_ids == {998, eos}
    output, finish = await run(engine, StopParams(12))
    assert output == free_output[: free_output.index(eos) + 1]
    assert (finish.reason, finish.stop_token_id) == (FinishReason.END_OF_TURN, eos)
    assert (await run(engine, StopParams(12, ignore_eos=True)))[0] == free_output
    late, _ = await run(engine, StopParams(12, min_output_tokens=6))
    assert eos not in late[:6]


async def test_output_that_it_came_with_counts_for_the_limit(engine: LocalEngine, free_output: list[int]) -> None:
    stop = StopParams(12, ignore_eos=True)
    output, finish = await run(engine, stop, tuple(free_output[:11]))
    assert output == free_output[11:]
    assert finish.reason is FinishReason.LENGTH
