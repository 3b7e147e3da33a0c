"""A constraint is on the answer: it begins after the thinking, where there is any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import AdapterInfo, ModelCard
from qwire.engine.request import Envelope, TokenRequest
from qwire.text.event import Delta, GenerationEvent
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.request import ChatMessage, ChatPrompt, GenerationRequest, Prompt, Role, TextPrompt
from qwire.text.splitter import Channel
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer

ASK = ChatPrompt((ChatMessage(Role.USER, "Hello"),))
CHOICE = Constraint(ConstraintKind.CHOICE, choices=("yes", "no"))


async def asked(
    processor: TextProcessor,
    card: ModelCard,
    prompt: Prompt,
    said: list[int],
    *,
    budget: int | None = None,
    adapter: str = "",
) -> tuple[list[TokenRequest], list[GenerationEvent]]:
    """Return what the engine was asked for, and what came of it."""

    def script(request: TokenRequest) -> list[int]:
        given = list(request.output_token_ids)
        return said if given == said[: len(given)] else [*given, *said[-2:]]

    engine = FakeEngine(script, card=replace(card, constraints=True, adapters=True, context_tokens=512))
    engine.adapter_infos = (AdapterInfo("one", 2, loaded=True, sha256="first"),)
    generator = Generator(processor, engine, await engine.card())
    request = GenerationRequest(
        prompt, Envelope("a"), constraint=CHOICE, reasoning_budget_tokens=budget, adapter=adapter
    )
    return engine.requests, [event async for event in generator.stream(request)]


@pytest.mark.parametrize(
    ("prompt", "thinks"),
    [
        (ASK, True),
        (replace(ASK, thinking=True), True),
        (replace(ASK, thinking=False), False),
        (TextPrompt("Hello"), False),
    ],
)
async def test_it_waits_for_the_end_of_thinking_where_the_model_thinks(
    thinker: TextProcessor, card: ModelCard, control_ids: dict[str, int], prompt: Prompt, *, thinks: bool
):
    (request,), _ = await asked(thinker, card, prompt, [control_ids["<|im_end|>"]])
    closing, opening = control_ids["</think>"], control_ids["<think>"]
    waiting = replace(CHOICE, after_token_id=closing, opening_token_id=opening)
    assert request.constraint == (waiting if thinks else CHOICE)


async def test_it_waits_in_any_case_where_the_prompt_opens_the_thinking(
    opener: TextProcessor, card: ModelCard, control_ids: dict[str, int]
):
    (request,), _ = await asked(opener, card, ASK, [control_ids["<|im_end|>"]])
    assert request.constraint == replace(CHOICE, after_token_id=control_ids["</think>"])


async def test_a_model_that_does_not_think_begins_at_once(
    processor: TextProcessor, card: ModelCard, control_ids: dict[str, int]
):
    (request,), _ = await asked(processor, card, ASK, [control_ids["<|im_end|>"]])
    assert request.constraint == CHOICE


@pytest.fixture(scope="module")
def opener(folder: Path, thinking_source: str) -> TextProcessor:
    """A model whose prompts open the thinking."""
    return TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(thinking_source + "<think>\n"))


def said_in(events: list[GenerationEvent]) -> dict[str, str]:
    """Return what was said in each channel."""
    said = dict.fromkeys((channel.value for channel in Channel), "")
    for event in events:
        if isinstance(event, Delta):
            said[event.channel.value] += event.text
    return said


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("budget", [None, 30])
async def test_tags_that_are_spelled_in_letters_are_text(
    thinker: TextProcessor,
    opener: TextProcessor,
    card: ModelCard,
    control_ids: dict[str, int],
    budget: int | None,
    *,
    opened: bool,
):
    letters, end = thinker.encode(TextPrompt("\nhm</think>all\n")), control_ids["<|im_end|>"]
    answer = [control_ids["</think>"], *thinker.encode(TextPrompt("\nyes")), end]
    said = [*([] if opened else [control_ids["<think>"]]), *letters, *answer]
    _, events = await asked(opener if opened else thinker, card, ASK, said, budget=budget)
    # Line breaks belong to the tags of thinking; all of the answer is what the constraint is about.
    assert said_in(events) == {"reasoning": "hm</think>all", "text": "\nyes"}


@pytest.mark.parametrize("prompt", [ASK, replace(ASK, thinking=False)])
async def test_an_answer_that_spells_a_tag_is_an_answer(
    thinker: TextProcessor, card: ModelCard, control_ids: dict[str, int], prompt: Prompt
):
    said = [*thinker.encode(TextPrompt("<think>no</think>\n")), control_ids["<|im_end|>"]]
    _, events = await asked(thinker, card, prompt, said, budget=None if prompt is not ASK else 2)
    assert said_in(events) == {"reasoning": "", "text": "<think>no</think>\n"}


async def test_what_was_thought_when_the_output_ends_is_told(
    opener: TextProcessor, card: ModelCard, control_ids: dict[str, int]
):
    said = [*opener.encode(TextPrompt("hm\n")), control_ids["<|im_end|>"]]
    _, events = await asked(opener, card, ASK, said)
    assert said_in(events) == {"reasoning": "hm\n", "text": ""}


async def test_a_spent_budget_puts_nothing_in_front_of_the_answer(
    thinker: TextProcessor, card: ModelCard, control_ids: dict[str, int]
):
    (answer,) = thinker.encode(TextPrompt("y"))
    said = [control_ids["<think>"], *[answer] * 9, answer, control_ids["<|im_end|>"]]
    requests, events = await asked(thinker, card, ASK, said, budget=4)
    assert [request.constraint for request in requests] == [requests[0].constraint] * 2
    assert requests[1].output_token_ids[-1] == control_ids["</think>"]
    text = [event.text for event in events if isinstance(event, Delta) and event.channel is Channel.TEXT]
    assert "".join(text) == "y"


async def test_after_a_spent_budget_the_adapter_is_the_same_one(
    thinker: TextProcessor, card: ModelCard, control_ids: dict[str, int]
):
    (answer,) = thinker.encode(TextPrompt("y"))
    said = [control_ids["<think>"], *[answer] * 9, answer, control_ids["<|im_end|>"]]
    requests, _ = await asked(thinker, card, ASK, said, budget=4, adapter="one")
    assert [(request.adapter, request.adapter_sha256) for request in requests] == [("one", ""), ("one", "first")]
