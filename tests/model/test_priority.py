"""Priorities over a model: what gives way, or stands still, or loses a step under way, says what it would have said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from qwire.engine.interruption import InterruptibleBatch, Interruption, StepInterrupted
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.sequence import Sequence
from qwire.engine.step_loop import StepLoop
from qwire.engine.step_plan import StepPlan
from tests.support.log_lines import collected_log_lines

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
LONG, SHORT = StopParams(40, ignore_eos=True), StopParams(4, ignore_eos=True)


def prompt(index: int, length: int) -> tuple[int, ...]:
    return tuple(4 + (index * 131 + position * 17) % 990 for position in range(length))


async def output_of(engine: LocalEngine, request: TokenRequest) -> tuple[int, ...]:
    return tuple([token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids])


class Arrivals:
    """Callers that come one after the other in the middle of steps, each in the fifth one with low ones in it.

    The step waits until its caller has come, so that nothing hangs on how fast the machine is.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.interrupted: list[StepPlan] = []
        self.asked: list[asyncio.Task[tuple[int, ...]]] = []
        self._callers: list[TokenRequest] = []
        self._came = threading.Event()
        self._steps, self._has_low = 0, False
        execute, attend, submit = ModelRunner.execute, InterruptibleBatch.attend, StepLoop.submit

        def watched(runner: ModelRunner, plan: StepPlan) -> StepResult:
            self._has_low = any(tokens.sequence.is_low for tokens in plan.scheduled)
            self._steps += self._has_low
            try:
                return execute(runner, plan)
            except StepInterrupted:
                self.interrupted.append(plan)
                raise

        def attended(batch: InterruptibleBatch, layer: int, *arguments: Any) -> Any:
            if layer == 1 and self._callers and self._has_low and self._steps >= 5:
                self._steps = 0
                self._came.clear()
                self._loop.call_soon_threadsafe(self._ask, self._callers.pop(0))
                assert self._came.wait(60)
            return attend(batch, layer, *arguments)

        def told(steps: StepLoop, sequence: Sequence) -> None:
            submit(steps, sequence)
            self._came.set()

        monkeypatch.setattr(ModelRunner, "execute", watched)
        monkeypatch.setattr(InterruptibleBatch, "attend", attended)
        monkeypatch.setattr(StepLoop, "submit", told)

    def begin(self, engine: LocalEngine, callers: list[TokenRequest]) -> None:
        """Let them come from now on."""
        self._engine, self._loop, self._callers, self._steps = engine, asyncio.get_running_loop(), list(callers), 0

    def _ask(self, request: TokenRequest) -> None:
        self.asked.append(asyncio.create_task(output_of(self._engine, request)))


@pytest.mark.parametrize("speculation", ["none", "prompt-lookup"])
@pytest.mark.parametrize("prefix_reuse", [True, False])
async def test_output_is_the_same_whatever_arrives_meanwhile(
    tiny_model: Path,
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    speculation: str,
    *,
    prefix_reuse: bool,
) -> None:
    arrivals = Arrivals(monkeypatch)
    greedy, seeded = SamplingParams(), SamplingParams(temperature=10.0, top_p=0.9, seed=5, presence_penalty=1.0)
    low = [
        TokenRequest(prompt(index, 20 + index), Envelope(f"low-{index}", priority=-1), LONG, sampling)
        for index, sampling in enumerate((greedy, seeded, greedy, seeded))
    ]
    callers = [
        TokenRequest(prompt(10 + index, 24), Envelope(f"caller-{index}", priority=index % 2), SHORT)
        for index in range(5)
    ]
    options = {"max_running": 3, "max_step_tokens": 16, "page_tokens": 4}
    engine = await start_engine(tiny_model, prefix_reuse=prefix_reuse, speculation=speculation, **options)
    expected = [await output_of(engine, request) for request in (*low, *callers)]
    assert not arrivals.interrupted
    arrivals.begin(engine, callers)
    with collected_log_lines() as lines:
        outputs = await asyncio.gather(*(output_of(engine, request) for request in low))
        outputs += await asyncio.gather(*arrivals.asked)
    assert outputs == expected
    assert any(str(line["request_id"]).startswith("low-") for line in lines.of("generation_preempted"))
    assert arrivals.interrupted
    assert all(any(tokens.sequence.is_low for tokens in plan.scheduled) for plan in arrivals.interrupted)
    assert (await engine.stats()).kv_used_tokens == 0


def test_the_step_after_one_that_was_given_up_goes_to_its_end() -> None:
    """Callers who come and go faster than steps cost others every second one at most."""
    interruption = Interruption()
    given_up: list[bool] = []
    for _ in range(6):
        interruption.clear()
        interruption.request()
        try:
            interruption.check()
        except StepInterrupted:
            given_up.append(True)
        else:
            given_up.append(False)
    assert given_up == [True, False] * 3
