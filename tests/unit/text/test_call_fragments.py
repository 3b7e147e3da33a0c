"""Calls told of before they are complete: a beginning of what they become, or taken back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwire.engine.protocol import ModelCard
from qwire.engine.request import Envelope
from qwire.text.call_progress import CallFragment, CallProgress
from qwire.text.call_text import WrittenCall, parse_call
from qwire.text.event import Delta, GenerationEvent, ToolCalled, ToolCallFragment
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
    TextPrompt,
)
from qwire.text.splitter import OutputSplitter, Part
from qwire.text.tool import Tool

from .test_generator import GroupingEngine
from .test_splitter import OUTPUTS, a_call

PROMPT = ChatPrompt((ChatMessage(Role.USER, "hi"),), (Tool("weather", "", {}), Tool("f", "", {})))
ARGUMENTS = '{"city": "Kö\\"ln}", "days": [1, {"a": "]"}], "e": "\\\\"}'
CALL = a_call(ARGUMENTS, "weather")
BLOCK = '```json\n{"name": "f", "arguments": {"x": 1}}\n```'
BROKEN = '<tool_call>\n{"name": "f", "arguments": {"x": 1}, "more": 2}\n</tool_call>'
UNFINISHED = '<tool_call>\n{"name": "f", "arguments": {"x": "12'
_numbers = itertools.count()


def asking(**options: object) -> GenerationRequest:
    request = GenerationRequest(PROMPT, Envelope(f"call {next(_numbers)}"), tool_call_fragments=True)
    return replace(request, sampling=SamplingOptions(seed=1), **options)  # pyright: ignore[reportArgumentType]


async def events_of(
    processor: TextProcessor, card: ModelCard, output: str, request: GenerationRequest, size: int = 1
) -> list[GenerationEvent]:
    """Return all events of an output, whose tokens come in chunks of a size."""
    token_ids = [*processor.encode(TextPrompt(output)), max(card.eos_token_ids)]
    card = replace(card, context_tokens=4096, max_output_tokens=2048, default_max_output_tokens=1024)
    generator = Generator(processor, GroupingEngine(token_ids, card, [size]), card)
    async with aclosing(generator.stream(request)) as events:
        return [event async for event in events]


def shown(events: Sequence[GenerationEvent]) -> list[tuple[int, str, str, str]]:
    """Return what a caller has of each call, index, id, name and arguments, after all these events.

    A retracted one goes; a complete one is the truth, of which the fragments must be the beginning.
    """
    begun: dict[int, tuple[str, str, str]] = {}
    done: list[tuple[int, str, str, str]] = []
    for event in events:
        if isinstance(event, ToolCalled):
            if len(done) in begun:
                call_id, name, arguments = begun.pop(len(done))
                assert (call_id, name) == (event.id, event.name)
                assert event.arguments_json.startswith(arguments)
            done.append((len(done), event.id, event.name, event.arguments_json))
        for fragment in event.fragments if isinstance(event, Delta) else ():
            assert fragment.index == len(done)
            if fragment.retracted:
                assert fragment == ToolCallFragment(fragment.index, retracted=True)
                del begun[fragment.index]
            elif fragment.name:
                assert fragment.index not in begun
                begun[fragment.index] = (fragment.id, fragment.name, fragment.arguments_json)
            else:
                call_id, name, arguments = begun[fragment.index]
                begun[fragment.index] = (call_id, name, arguments + fragment.arguments_json)
    return done + [(index, *rest) for index, rest in begun.items()]


def fragments_of(events: Sequence[GenerationEvent]) -> list[ToolCallFragment]:
    return [fragment for event in events if isinstance(event, Delta) for fragment in event.fragments]


def text_of(events: Sequence[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def pieces(text: str, cuts: list[int], **options: bool) -> list[list[Part]]:
    splitter = OutputSplitter(tools="fg", **options)
    ends = [*sorted(cuts), len(text)]
    parts = [splitter.push(text[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return [*parts, splitter.finish()]


async def test_arguments_come_while_they_are_written(processor: TextProcessor, card: ModelCard):
    events = await events_of(processor, card, f"I look.\n{CALL}", asking())
    first, *others = fragments_of(events)
    assert (first.index, first.name) == (0, "weather")
    assert first.id
    assert len(others) > 5
    assert not any(one.id or one.name or one.retracted for one in others)
    assert "".join(one.arguments_json for one in (first, *others)) == ARGUMENTS
    called = next(place for place, event in enumerate(events) if isinstance(event, ToolCalled))
    assert fragments_of(events[called:]) == []
    assert text_of(events) == "I look."


@pytest.mark.parametrize("size", [2, 3, 7, 50, 1000])
async def test_how_tokens_are_grouped_changes_nothing(processor: TextProcessor, card: ModelCard, size: int):
    output = f"a\n{CALL}\n{BROKEN}{BLOCK}{UNFINISHED}"
    expected = await events_of(processor, card, output, asking())
    events = await events_of(processor, card, output, asking(), size)
    assert shown(events) == shown(expected)
    assert len(shown(events)) == 2
    assert text_of(events) == text_of(expected)


async def test_nothing_is_told_unless_it_is_asked_for(processor: TextProcessor, card: ModelCard):
    asked = await events_of(processor, card, CALL, asking())
    silent = await events_of(processor, card, CALL, asking(tool_call_fragments=False))
    assert fragments_of(silent) == []
    assert text_of(silent) == text_of(asked)
    assert [event.arguments_json for event in silent if isinstance(event, ToolCalled)] == [ARGUMENTS]


@pytest.mark.parametrize("output", [BROKEN, UNFINISHED, '<tool_call>{"name": "f", "arguments": {"x": 1}} <'])
async def test_what_is_no_call_is_taken_back_with_the_text_that_it_is(
    processor: TextProcessor, card: ModelCard, output: str
):
    events = await events_of(processor, card, f"a {output}", asking())
    assert text_of(events) == f"a {output}"
    told = fragments_of(events)
    assert [one.retracted for one in told] == [False] * (len(told) - 1) + [True]
    assert len(told) > 1
    assert shown(events) == []
    before, after = text_of(events[: (place := _retraction(events))]), events[place]
    assert before == "a "
    assert isinstance(after, Delta)
    assert after.text.startswith("<tool_call>")


def _retraction(events: Sequence[GenerationEvent]) -> int:
    return next(n for n, event in enumerate(events) if any(one.retracted for one in fragments_of([event])))


async def test_a_limit_in_mid_call_takes_it_back(processor: TextProcessor, card: ModelCard):
    tokens = len(processor.encode(TextPrompt(CALL))) - 9
    events = await events_of(processor, card, CALL, asking(stop=StopOptions(max_output_tokens=tokens)))
    assert shown(events) == []
    assert fragments_of(events)[-1].retracted
    assert CALL.startswith(text_of(events))
    assert len(text_of(events)) > 40


async def test_a_block_that_calls_no_tool_on_offer_is_not_told_of(processor: TextProcessor, card: ModelCard):
    output = '```json\n{"name": "other", "arguments": {"x": 1}}\n```'
    events = await events_of(processor, card, output, asking())
    assert fragments_of(events) == []
    assert text_of(events) == output


@pytest.mark.parametrize(
    "output",
    [CALL, f"One.\n{CALL}\n{CALL}", f"{BROKEN}\n{CALL} and {BLOCK}", f"{BLOCK}{UNFINISHED}", f"é {CALL}\n{BROKEN}"],
)
async def test_a_stream_that_is_resumed_anywhere_repeats_and_loses_nothing(
    processor: TextProcessor, card: ModelCard, output: str
):
    whole = await events_of(processor, card, output, asking())
    for cut in range(2, len(whole)):
        received = [one for event in whole[:cut] if isinstance(event, Delta) for one in event.token_ids]
        if not received:
            continue
        rest = await events_of(processor, card, output, asking(resume=ResumePoint(tuple(received), 0)))
        assert fragments_of([*whole[:cut], *rest]) == fragments_of(whole)
        assert text_of([*whole[:cut], *rest]) == text_of(whole)
        calls = [event for event in (*whole[:cut], *rest) if isinstance(event, ToolCalled)]
        assert list(dict.fromkeys(calls)) == [event for event in whole if isinstance(event, ToolCalled)]
    assert len(shown(whole)) == output.count(CALL) + output.count(BLOCK)


@given(text=OUTPUTS, cuts=st.lists(st.integers(0, 60), max_size=20))
@example(CALL + BROKEN + BLOCK, list(range(200)))
@example('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', [50])
@example(UNFINISHED, [40])
def test_telling_of_calls_changes_nothing_else_and_is_always_resolved(text: str, cuts: list[int]):
    told = pieces(text, cuts, fragments=True)
    silent = pieces(text, cuts)
    assert [[part for part in parts if not isinstance(part, CallFragment)] for parts in told] == silent
    arguments: str | None = None
    for part in (part for parts in told for part in parts):
        if isinstance(part, CallFragment):
            if part.retracted:
                assert arguments is not None
                arguments = None
            else:
                assert bool(part.name) == (arguments is None)
                arguments = (arguments or "") + part.arguments_json
        elif isinstance(part, WrittenCall):
            assert part.arguments_json.startswith(arguments or "")
            arguments = None
        else:
            assert arguments is None
    assert arguments is None


@given(
    arguments=st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: {"a": value}),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_all_arguments_are_told_letter_by_letter(arguments: dict[str, object], indent: int | None, *, ascii_only: bool):
    written = json.dumps(arguments, indent=indent, ensure_ascii=ascii_only)
    text = f'\n{{"name" : "f",\n"arguments":{written} }}\n'
    progress, told = CallProgress(), ""
    for end in range(len(text) + 1):
        fragment = progress.advance(text[:end])
        told += fragment.arguments_json if fragment else ""
    assert told == written
    call = parse_call(text)
    assert call is not None
    assert (call.name, call.arguments_json) == (progress.name, told)


def test_a_beginning_that_is_too_long_is_not_waited_for():
    progress = CallProgress()
    assert progress.advance(" " * 300) is None
    assert progress.advance(" " * 300 + '{"name": "f", "arguments": {}') is None
