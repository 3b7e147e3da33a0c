"""A budget of thinking over a real engine: the answer is the one that the forced output leads to, to the token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope
from qwire.text.event import Delta, Finished, GenerationEvent
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    ResumePoint,
    Role,
    SamplingOptions,
    StopOptions,
)
from qwire.text.splitter import Channel
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model

TEMPLATE = "{{ messages[0].content }}<think>\n"
BUDGET = 6
SAMPLING = SamplingOptions(temperature=5.0, repetition_penalty=1.3, presence_penalty=1.0, frequency_penalty=0.5, seed=3)
STOP = StopOptions(max_output_tokens=32, ignore_eos=True)


StartEngine = Callable[..., Awaitable[LocalEngine]]


async def test_a_spent_budget_goes_on_from_the_output_that_exists(
    tmp_path_factory: pytest.TempPathFactory, start_engine: StartEngine
):
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("thinker"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    processor = TextProcessor.from_folder(folder)
    engine = await start_engine(folder)
    generator = Generator(processor, engine, await engine.card())
    prompt = ChatPrompt((ChatMessage(Role.USER, "hi"),))

    async def run(budget: int | None, resumed: tuple[int, ...] = ()) -> list[GenerationEvent]:
        resume = ResumePoint(resumed, 0) if resumed else None
        envelope = Envelope(f"{budget}-{len(resumed)}")
        request = GenerationRequest(prompt, envelope, SAMPLING, STOP, resume, reasoning_budget_tokens=budget)
        return [event async for event in generator.stream(request)]

    free = tokens_of(await run(None))
    events = await run(BUDGET)
    bound = tokens_of(events)
    forced = processor.end_of_thinking
    assert bound[: BUDGET + len(forced)] == [*free[:BUDGET], *forced]
    assert len(bound) == STOP.max_output_tokens
    # The same output, brought along by a caller, has the same rest: seed, positions and penalties are those of it.
    assert tokens_of(await run(None, tuple(bound[: BUDGET + len(forced)]))) == bound[BUDGET + len(forced) :]
    for cut in (3, BUDGET, BUDGET + 4, BUDGET + len(forced), 30):
        assert tokens_of(await run(BUDGET, tuple(bound[:cut]))) == bound[cut:]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.output_tokens == STOP.max_output_tokens
    assert any(event.channel is Channel.TEXT for event in events if isinstance(event, Delta))


def tokens_of(events: list[GenerationEvent]) -> list[int]:
    return [token_id for event in events if isinstance(event, Delta) for token_id in event.token_ids]
