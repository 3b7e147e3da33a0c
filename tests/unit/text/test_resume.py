"""An interrupted generation goes on as if it had never been interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwire.engine.chunk import Timings
from qwire.engine.errors import InvalidRequest
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import ModelCard
from qwire.engine.request import Envelope
from qwire.text.event import Delta, Finished, GenerationEvent
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.request import GenerationRequest, ResumePoint, SamplingOptions, StopOptions, TextPrompt

TIMELESS = Timings(0, 0, 0, 0)

# Characters of several bytes, and beginnings of the stop string that come to nothing.
ANSWER = "🙂 你好 QUI 👩‍👩‍👧 Q\nQU é QUIT and more"

STOPS = {
    "end of turn": StopOptions(),
    "stop string": StopOptions(stop_strings=("QUIT", "nothing")),
    "stop string, honoured late": StopOptions(stop_strings=("你", "QUIT"), min_output_tokens=20),
    "stop token": StopOptions(),
    "end too early to count": StopOptions(min_output_tokens=20),
    "ignored end": StopOptions(ignore_eos=True, max_output_tokens=100),
}


async def run(
    processor: TextProcessor, card: ModelCard, output: list[int], stop: StopOptions, resumed: tuple[int, ...] = ()
) -> list[GenerationEvent]:
    generator = Generator(processor, FakeEngine(lambda _: output, card=card), card)
    resume = ResumePoint(resumed, 0) if resumed else None
    request = GenerationRequest(TextPrompt("Hello"), Envelope("id"), SamplingOptions(seed=7), stop, resume)
    events = [event async for event in generator.stream(request)]
    return [replace(event, timings=TIMELESS) if isinstance(event, Finished) else event for event in events]


@pytest.fixture
def roomy(card: ModelCard) -> ModelCard:
    return replace(card, default_max_output_tokens=card.max_output_tokens)


@pytest.mark.parametrize("kind", STOPS)
async def test_every_cut_gives_the_rest(
    processor: TextProcessor, roomy: ModelCard, control_ids: dict[str, int], kind: str
):
    end = control_ids["<|im_end|>"]
    text = processor.encode(TextPrompt(ANSWER))
    output = [*text[:10], end, *text[10:], end] if kind in {"ignored end", "end too early to count"} else [*text, end]
    stop = STOPS[kind]
    if kind == "stop token":
        stop = replace(stop, stop_token_ids=frozenset(output[-3:-2]))
    whole = await run(processor, roomy, output, stop)
    deltas = [event for event in whole if isinstance(event, Delta)]
    assert all(len(delta.token_ids) == 1 for delta in deltas), "so that each cut lies between two events"
    assert len(deltas) > 20
    ids = tuple(token_id for delta in deltas for token_id in delta.token_ids)
    for cut in range(1, len(ids) + 1):
        if kind == "ignored end" and cut == len(ids):
            continue  # the script ended, not the output
        resumed = await run(processor, roomy, output, stop, ids[:cut])
        assert resumed == [whole[0], *whole[1 + cut :]]


async def test_output_that_has_reached_its_limit_is_finished(processor: TextProcessor, roomy: ModelCard):
    output = processor.encode(TextPrompt("你好 Q"))
    stop = StopOptions(stop_strings=("QUIT",), max_output_tokens=len(output))
    whole = await run(processor, roomy, output, stop)
    resumed = await run(processor, roomy, output, stop, tuple(output))
    assert resumed == [whole[0], whole[-1]]


@pytest.mark.parametrize("extra", [1, 3])
async def test_output_that_goes_on_after_its_end_is_refused(
    processor: TextProcessor, roomy: ModelCard, control_ids: dict[str, int], extra: int
):
    text = processor.encode(TextPrompt("the STOP"))
    for stop, output in (
        (StopOptions(stop_strings=("STOP",)), text),
        (StopOptions(), [*text, control_ids["<|im_end|>"]]),
        (StopOptions(stop_token_ids=frozenset(text[-1:])), text),
    ):
        with pytest.raises(InvalidRequest, match=f"token {len(output)};") as caught:
            await run(processor, roomy, output, stop, (*output, *[1] * extra))
        assert caught.value.field == "resume.output_token_ids"


async def test_a_greedy_generation_needs_no_seed_to_be_resumed(processor: TextProcessor, card: ModelCard):
    generator = Generator(processor, FakeEngine(card=card), card)
    request = GenerationRequest(
        TextPrompt("Hello"), Envelope("id"), SamplingOptions(temperature=0.0), resume=ResumePoint((1, 2), 0)
    )
    events = [event async for event in generator.stream(request)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.output_tokens == card.default_max_output_tokens
    assert sum(len(event.token_ids) for event in events if isinstance(event, Delta)) == finished.output_tokens - 2
