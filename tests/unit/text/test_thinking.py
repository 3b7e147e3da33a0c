"""Thinking, calls and the budget of thinking, from an engine's tokens to events, and through every resume."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwire.engine.chunk import Timings, TokenChunk
from qwire.engine.errors import GenerationCancelled, InvalidRequest
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import ModelCard
from qwire.engine.request import Envelope, TokenRequest
from qwire.text.event import Delta, EndReason, Finished, GenerationEvent, Started, ToolCalled
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    ResumePoint,
    Role,
    SamplingOptions,
    StopOptions,
)
from qwire.text.splitter import Channel
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer
from qwire.text.tool import Tool

TIMELESS = Timings(0, 0, 0, 0)
TOOLS = (Tool("f", "", {}), Tool("g", "", {}))
ASK = ChatPrompt((ChatMessage(Role.USER, "Hello"),), TOOLS)
CALLS = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "🙂"]}}\n</tool_call>\n'
ANSWER = (
    f"<think>\nlet me STOP, </thin\nno\n</think>\n\nI look it up.\n\n{CALLS}<tool_call> is a tag,\n"
    f'{CALLS}<tool_call>\n{{"name": "g"\n</tool_call>\nsaid ST'
)

_numbers = itertools.count()


class Model(FakeEngine):
    """Says an output until its thinking is ended for it, then an answer; in groups of tokens of these sizes."""

    def __init__(
        self,
        card: ModelCard,
        output: Sequence[int],
        *,
        answer: Sequence[int] = (),
        sizes: Sequence[int] = (1,),
        step_s: float = 0.0,
    ) -> None:
        def script(request: TokenRequest) -> Sequence[int]:
            existing = request.output_token_ids
            said_it_all = existing == tuple(output[: len(existing)])
            return output if said_it_all else [*existing[: len(existing) - self._answered(existing, answer)], *answer]

        super().__init__(script, card=card, step_s=step_s)
        self._group_sizes = sizes

    def _answered(self, existing: Sequence[int], answer: Sequence[int]) -> int:
        """Return how much of the answer the output ends with."""
        return max(n for n in range(len(answer) + 1) if tuple(answer[:n]) == tuple(existing[len(existing) - n :]))

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        sizes = iter(itertools.cycle(self._group_sizes))
        group: list[TokenChunk] = []
        size = next(sizes)
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                group.append(chunk)
                if len(group) < size and chunk.finish is None:
                    continue
                token_ids = tuple(token_id for member in group for token_id in member.token_ids)
                logprobs = tuple(one for member in group for one in member.logprobs)
                yield TokenChunk(token_ids, chunk.finish, group[0].timings, logprobs)
                size = next(sizes)
                group.clear()


@pytest.fixture
def roomy(card: ModelCard) -> ModelCard:
    return replace(card, context_tokens=2048, max_output_tokens=1024, default_max_output_tokens=1024)


@pytest.fixture
def answer(processor: TextProcessor, control_ids: dict[str, int]) -> list[int]:
    return [*encoded(processor, ANSWER), control_ids["<|im_end|>"]]


def encoded(processor: TextProcessor, text: str) -> list[int]:
    """Encode a text with its tags as control tokens, as a model says them."""
    tokenizer = processor._tokenizer  # pyright: ignore[reportPrivateUsage] - no prompt is like this
    return tokenizer.encode_rendered(text, "\ue000")


async def run(
    processor: TextProcessor,
    engine: FakeEngine,
    prompt: Prompt = ASK,
    *,
    stop: StopOptions | None = None,
    resumed: tuple[int, ...] = (),
    budget: int | None = None,
) -> list[GenerationEvent]:
    request = GenerationRequest(
        prompt,
        Envelope(f"request-{next(_numbers)}"),
        SamplingOptions(seed=7),
        stop or StopOptions(),
        ResumePoint(resumed, 0) if resumed else None,
        reasoning_budget_tokens=budget,
    )
    generator = Generator(processor, engine, await engine.card())
    events = [event async for event in generator.stream(request)]
    assert engine.ended == engine.started
    return [replace(event, timings=TIMELESS) if isinstance(event, Finished) else event for event in events]


def text_of(events: Sequence[GenerationEvent], channel: Channel) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.channel is channel)


def tokens_of(events: Sequence[GenerationEvent]) -> list[int]:
    return [token_id for event in events if isinstance(event, Delta) for token_id in event.token_ids]


def calls_of(events: Sequence[GenerationEvent]) -> list[ToolCalled]:
    return [event for event in events if isinstance(event, ToolCalled)]


def finished_of(events: Sequence[GenerationEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def summary(events: Sequence[GenerationEvent]) -> object:
    """Everything that does not depend on how tokens were grouped."""
    return (*(text_of(events, channel) for channel in Channel), tokens_of(events), calls_of(events), events[-1])


async def test_thinking_answer_and_calls_are_told_apart(thinker: TextProcessor, roomy: ModelCard, answer: list[int]):
    events = await run(thinker, Model(roomy, answer))
    assert text_of(events, Channel.REASONING) == "let me STOP, </thin\nno"
    assert text_of(events, Channel.TEXT) == (
        'I look it up.<tool_call> is a tag,<tool_call>\n{"name": "g"\n</tool_call>\nsaid ST'
    )
    assert tokens_of(events) == answer
    first, second = calls_of(events)
    assert (first.name, first.arguments_json) == (second.name, second.arguments_json) == ("f", '{"a": [1, "🙂"]}')
    assert first.id.startswith("call_")
    assert first.id != second.id
    finished = finished_of(events)
    assert (finished.reason, finished.stop_token_id) == (EndReason.TOOL_CALLS, answer[-1])
    assert finished.output_tokens == len(answer)
    closing = answer.index(thinker.end_of_thinking[1])
    assert finished.reasoning_tokens == closing + 1


async def test_a_call_comes_right_before_the_token_that_completes_it(
    thinker: TextProcessor, roomy: ModelCard, answer: list[int], control_ids: dict[str, int]
):
    events = await run(thinker, Model(roomy, answer))
    for call in calls_of(events):
        following = events[events.index(call) + 1]
        assert isinstance(following, Delta)
        assert following.token_ids == (control_ids["</tool_call>"],)


@given(data=st.data())
async def test_how_the_engine_groups_its_tokens_changes_nothing(
    thinker: TextProcessor, card: ModelCard, control_ids: dict[str, int], data: st.DataObject
):
    roomy = replace(card, context_tokens=2048, max_output_tokens=1024, default_max_output_tokens=1024)
    output = [*encoded(thinker, ANSWER), control_ids["<|im_end|>"]]
    reply = [*encoded(thinker, f"so\n{CALLS}"), control_ids["<|im_end|>"]]
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    budget = data.draw(st.none() | st.integers(0, 40))
    stop = StopOptions(stop_strings=data.draw(st.sampled_from([(), ("STOP",), ("said S",), ("up.\n\n",), ("\n",)])))
    one, many = [
        summary(await run(thinker, Model(roomy, output, answer=reply, sizes=grouped), stop=stop, budget=budget))
        for grouped in ([1], sizes)
    ]
    assert one == many


async def test_stop_strings_are_those_of_the_answer(thinker: TextProcessor, roomy: ModelCard, answer: list[int]):
    stop = StopOptions(stop_strings=("STOP", "arguments", "<tool_call>\n{", "tag,\n"))
    events = await run(thinker, Model(roomy, answer), stop=stop)
    finished = finished_of(events)
    assert (finished.reason, finished.stop_string) == (EndReason.STOP_STRING, "tag,\n")
    assert text_of(events, Channel.TEXT) == "I look it up.<tool_call> is a "
    assert len(calls_of(events)) == 1


async def test_without_tools_a_call_is_text(thinker: TextProcessor, roomy: ModelCard, answer: list[int]):
    events = await run(thinker, Model(roomy, answer), replace(ASK, tools=()))
    assert not calls_of(events)
    assert text_of(events, Channel.TEXT) == ANSWER.partition("</think>\n\n")[2]
    assert finished_of(events).reason is EndReason.END_OF_TURN


async def test_without_thinking_its_tags_are_text(processor: TextProcessor, roomy: ModelCard, answer: list[int]):
    events = await run(processor, Model(roomy, answer))
    assert text_of(events, Channel.REASONING) == ""
    assert text_of(events, Channel.TEXT).startswith("<think>\nlet me STOP")
    assert len(calls_of(events)) == 2
    assert finished_of(events).reasoning_tokens == 0


async def test_the_template_may_open_the_thinking(
    folder: Path, roomy: ModelCard, thinking_source: str, control_ids: dict[str, int]
):
    opening = "{{- '<|im_start|>assistant\\n' }}\n    {{- '<think>"
    assert opening in thinking_source
    source = thinking_source.replace(opening, "{{- '<|im_start|>assistant\\n<think>\\n' }}\n    {{- '<think>")
    processor = TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(source))
    output = [*encoded(processor, "hm\n</think>\n\nYes."), control_ids["<|im_end|>"]]
    events = await run(processor, Model(roomy, output))
    assert (text_of(events, Channel.REASONING), text_of(events, Channel.TEXT)) == ("hm", "Yes.")
    for budget in (0, 1):
        engine = Model(roomy, output, answer=output[-3:])
        events = await run(processor, engine, budget=budget)
        assert engine.requests[-1].output_token_ids == (*output[:budget], *processor.end_of_thinking)
        assert tokens_of(events) == [*output[:budget], *processor.end_of_thinking, *output[-3:]]
        assert len(engine.requests) == budget + 1, "none where there is nothing to think"
        # Only where an engine has taken the first part may none refuse the second.
        assert [request.envelope.admitted for request in engine.requests] == [False, True][: budget + 1]


@pytest.mark.parametrize("budget", [0, 1, 2, 5, 9])
async def test_a_spent_budget_makes_the_model_answer(
    thinker: TextProcessor, roomy: ModelCard, answer: list[int], control_ids: dict[str, int], budget: int
):
    end = control_ids["<|im_end|>"]
    reply = [*encoded(thinker, f"Yes.\n{CALLS}"), end]
    engine = Model(roomy, answer, answer=reply)
    events = await run(thinker, engine, budget=budget)
    thoughts = answer[: max(budget, 1)]
    forced = thinker.end_of_thinking
    assert tokens_of(events) == [*thoughts, *forced, *reply]
    assert text_of(events, Channel.TEXT) == "Yes."
    assert len(calls_of(events)) == 1
    first, second = engine.requests
    assert second == replace(first, envelope=second.envelope, output_token_ids=(*thoughts, *forced))
    assert second.envelope == replace(first.envelope, request_id=second.envelope.request_id, admitted=True)
    finished = finished_of(events)
    assert finished.reason is EndReason.TOOL_CALLS
    assert finished.output_tokens == len(thoughts) + len(forced) + len(reply)
    assert finished.reasoning_tokens == len(thoughts) + forced.index(control_ids["</think>"]) + 1


async def test_a_budget_that_is_not_spent_changes_nothing(thinker: TextProcessor, roomy: ModelCard, answer: list[int]):
    engine = Model(roomy, answer)
    thoughts = finished_of(await run(thinker, engine)).reasoning_tokens
    assert await run(thinker, engine, budget=thoughts) == await run(thinker, engine)
    assert len(engine.requests) == 3


@pytest.mark.parametrize("left", range(5))
async def test_the_outputs_limit_binds_above_all(
    thinker: TextProcessor, roomy: ModelCard, answer: list[int], left: int
):
    forced = thinker.end_of_thinking
    engine = Model(roomy, answer, answer=encoded(thinker, "Yes."))
    events = await run(thinker, engine, stop=StopOptions(max_output_tokens=5 + left), budget=5)
    assert tokens_of(events) == [*answer[:5], *forced, *encoded(thinker, "Yes.")][: 5 + left]
    assert finished_of(events).reason is EndReason.LENGTH
    assert finished_of(events).output_tokens == 5 + left
    assert len(engine.requests) == (2 if left > len(forced) else 1)


async def test_a_stop_token_among_the_forced_ones_counts(thinker: TextProcessor, roomy: ModelCard, answer: list[int]):
    last = thinker.end_of_thinking[-1]
    events = await run(thinker, Model(roomy, answer), stop=StopOptions(stop_token_ids=frozenset({last})), budget=1)
    finished = finished_of(events)
    assert (finished.reason, finished.stop_token_id) == (EndReason.STOP_TOKEN, last)
    assert tokens_of(events) == [answer[0], *thinker.end_of_thinking]


async def test_log_probabilities_stay_with_their_tokens(thinker: TextProcessor, roomy: ModelCard, answer: list[int]):
    engine = Model(roomy, answer, answer=answer, sizes=[7])
    request = GenerationRequest(ASK, Envelope("id"), SamplingOptions(), reasoning_budget_tokens=5, top_logprobs=1)
    generator = Generator(thinker, engine, roomy)
    deltas = [event async for event in generator.stream(request) if isinstance(event, Delta)]
    forced = [delta for delta in deltas if not delta.logprobs]
    assert [token_id for delta in forced for token_id in delta.token_ids] == list(thinker.end_of_thinking)
    told = [
        (token_id, one.top[0][0])
        for delta in deltas
        if delta.logprobs
        for token_id, one in zip(delta.token_ids, delta.logprobs, strict=True)
    ]
    assert all(token_id == likeliest for token_id, likeliest in told)
    assert len(told) == 5 + len(answer)


@pytest.mark.parametrize("budget", [None, 0, 4])
async def test_every_cut_gives_the_rest(
    thinker: TextProcessor, roomy: ModelCard, answer: list[int], control_ids: dict[str, int], budget: int | None
):
    reply = [*encoded(thinker, f"Yes.\n{CALLS}<tool_call>"), control_ids["<|im_end|>"]]

    async def play(resumed: tuple[int, ...] = ()) -> list[GenerationEvent]:
        return await run(thinker, Model(roomy, answer, answer=reply), resumed=resumed, budget=budget)

    whole = await play()
    ids = tuple(tokens_of(whole))
    for cut in range(1, len(ids) + 1):
        rest = await play(ids[:cut])
        seen, position = 0, 1
        while seen < cut:
            event = whole[position]
            seen += len(event.token_ids) if isinstance(event, Delta) else 0
            position += 1
        assert isinstance(rest[0], Started)
        if seen == cut:
            assert rest == [whole[0], *whole[position:]]
        else:  # a caller may hold less than the forced tokens that came as one event
            assert tokens_of(rest) == list(ids[cut:])
            assert rest[-1] == whole[-1]


@pytest.mark.parametrize("said", [ANSWER, f"<think>\nhm\n</think>\n\n{CALLS}", "<think>\nhm\n</think>\n\nHello"])
async def test_no_cut_between_events_loses_text_where_the_limit_ends_the_output(
    thinker: TextProcessor, roomy: ModelCard, control_ids: dict[str, int], said: str
):
    answer = [*encoded(thinker, said), control_ids["<|im_end|>"]]

    async def play(limit: int, resumed: tuple[int, ...] = ()) -> list[GenerationEvent]:
        stop = StopOptions(max_output_tokens=limit, stop_strings=("Hello",))
        return await run(thinker, Model(roomy, answer, sizes=(len(answer),)), stop=stop, resumed=resumed)

    for limit in range(1, len(answer)):
        whole = await play(limit)
        for cut in range(1, len(whole) - 1):
            held = whole[:cut]
            while (isinstance(held[-1], Delta) and not held[-1].token_ids) or isinstance(held[-1], ToolCalled):
                held.pop()  # what came after the last token is said again
            if ids := tuple(tokens_of(held)):
                rest = await play(limit, ids)
                for channel in Channel:
                    assert text_of(held, channel) + text_of(rest, channel) == text_of(whole, channel)
                assert [*calls_of(held), *calls_of(rest)] == calls_of(whole)
                assert [*tokens_of(held), *tokens_of(rest)] == tokens_of(whole)


@pytest.mark.parametrize("stop_strings", [(), ("look",)])
async def test_reused_prompt_tokens_are_told_however_it_ends(
    thinker: TextProcessor,
    roomy: ModelCard,
    answer: list[int],
    control_ids: dict[str, int],
    stop_strings: tuple[str, ...],
):
    class Reusing(Model):
        async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
            cached = 3 if not request.output_token_ids else len(request.prompt_token_ids)
            async with aclosing(super().generate(request)) as chunks:
                async for chunk in chunks:
                    finish = chunk.finish and replace(chunk.finish, cached_prompt_tokens=cached)
                    yield replace(chunk, finish=finish, cached_prompt_tokens=cached if chunk.timings else 0)

    reply = [*encoded(thinker, "I look."), control_ids["<|im_end|>"]]
    for budget in (None, 2):  # the rest of the second one comes from another generation of the engine
        events = await run(
            thinker, Reusing(roomy, answer, answer=reply), stop=StopOptions(stop_strings=stop_strings), budget=budget
        )
        assert finished_of(events).cached_prompt_tokens == 3


async def test_thinking_beyond_its_budget_cannot_be_resumed(
    thinker: TextProcessor, roomy: ModelCard, answer: list[int]
):
    with pytest.raises(InvalidRequest, match="token 4") as caught:
        await run(thinker, Model(roomy, answer), resumed=tuple(answer[:6]), budget=4)
    assert caught.value.field == "resume.output_token_ids"


async def test_a_generation_is_cancelled_by_its_id_in_thinking_and_after(
    thinker: TextProcessor, roomy: ModelCard, answer: list[int]
):
    for tokens in (2, 8):
        engine = Model(roomy, answer, answer=answer, step_s=0.05)
        generator = Generator(thinker, engine, roomy)
        stream = generator.stream(GenerationRequest(ASK, Envelope("id"), reasoning_budget_tokens=4))
        seen = 0
        while seen < tokens:
            event = await anext(stream)
            seen += len(event.token_ids) if isinstance(event, Delta) else 0
        # Where forced tokens have just been told, the engine is not yet asked for what follows them.
        await anext(stream)
        assert len(engine.started) == (1 if tokens < 4 else 2)
        assert await generator.cancel("id")
        with pytest.raises(GenerationCancelled):
            async for _ in stream:  # what came before it
                pass
        assert engine.ended == engine.started
        assert not await generator.cancel("id")
