from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwire.engine.chunk import Timings, TokenChunk
from qwire.engine.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    GenerationCancelled,
    InvalidRequest,
    NumericalError,
    QueueFull,
)
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import ModelCard
from qwire.engine.request import Envelope, SamplingParams, TokenRequest
from qwire.text.errors import UnusableTokenizer
from qwire.text.event import Delta, EndReason, Finished, GenerationEvent, Started
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
    TextPrompt,
    TokenPrompt,
)
from qwire.text.tokenizer import QwenTokenizer

HELLO = ChatPrompt((ChatMessage(Role.USER, "Hello"),))
ANSWER = "Grüße aus Köln 🙂, the END of 你好世界.\n"

_numbers = itertools.count()


class GroupingEngine(FakeEngine):
    """Joins the chunks of a fake engine into groups of these sizes; the last size goes on."""

    def __init__(self, output: Sequence[int], card: ModelCard, sizes: Sequence[int]) -> None:
        super().__init__(lambda _: output, card=card)
        self._group_sizes = sizes

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        sizes = iter(self._group_sizes)
        size = next(sizes)
        group: list[TokenChunk] = []
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                group.append(chunk)
                if len(group) < size and chunk.finish is None:
                    continue
                token_ids = tuple(token_id for member in group for token_id in member.token_ids)
                logprobs = tuple(record for member in group for record in member.logprobs)
                yield TokenChunk(token_ids, chunk.finish, group[0].timings, logprobs)
                size = next(sizes, size)
                group.clear()


class SilentEngine(FakeEngine):
    """Ends without saying why."""

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield replace(chunk, finish=None)


class EarlyEngine(FakeEngine):
    """Has a clock that began with the first request."""

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield replace(chunk, timings=chunk.timings and Timings(10, 20, 30, 30))


def a_request(
    prompt: Prompt = HELLO,
    *,
    stop: StopOptions | None = None,
    sampling: SamplingOptions | None = None,
    resume: ResumePoint | None = None,
) -> GenerationRequest:
    envelope = Envelope(f"request-{next(_numbers)}")
    return GenerationRequest(prompt, envelope, sampling or SamplingOptions(), stop or StopOptions(), resume)


async def collect(
    generator: Generator, request: GenerationRequest, events: list[GenerationEvent] | None = None
) -> list[GenerationEvent]:
    """Return all events; those before a failure are in `events`."""
    events = [] if events is None else events
    async for event in generator.stream(request):
        events.append(event)
    return events


def text_of(events: Sequence[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def tokens_of(events: Sequence[GenerationEvent]) -> list[int]:
    return [token_id for event in events if isinstance(event, Delta) for token_id in event.token_ids]


def started_of(events: Sequence[GenerationEvent]) -> Started:
    assert isinstance(events[0], Started)
    return events[0]


def finished_of(events: Sequence[GenerationEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


@pytest.fixture
def answer(processor: TextProcessor) -> list[int]:
    return processor.encode(TextPrompt(ANSWER))


@pytest.fixture
def end(control_ids: dict[str, int]) -> int:
    return control_ids["<|im_end|>"]


Make = Callable[..., tuple[Generator, FakeEngine]]


@pytest.fixture
def make(processor: TextProcessor, card: ModelCard) -> Make:
    """Return a generator on an engine that answers with these tokens."""

    def generator(output: Sequence[int], **options: object) -> tuple[Generator, FakeEngine]:
        engine = FakeEngine(lambda _: output, card=card, **options)  # type: ignore[arg-type]
        return Generator(processor, engine, card), engine

    return generator


async def test_a_generation_starts_says_its_text_and_finishes(
    make: Make, processor: TextProcessor, answer: list[int], end: int
):
    generator, engine = make([*answer, end])
    events = await collect(generator, a_request())
    prompt = processor.encode(HELLO)
    assert engine.requests[0].prompt_token_ids == tuple(prompt)
    assert started_of(events).prompt_tokens == len(prompt)
    assert text_of(events) == ANSWER
    assert tokens_of(events) == [*answer, end]
    assert all(event.token_ids for event in events[1:-1] if isinstance(event, Delta))
    finished = finished_of(events)
    assert (finished.reason, finished.stop_token_id) == (EndReason.END_OF_TURN, end)
    assert (finished.prompt_tokens, finished.output_tokens) == (len(prompt), len(answer) + 1)


async def test_a_stop_token_is_reported_but_its_text_is_not(make: Make, answer: list[int], full_tokenizer: Tokenizer):
    generator, _ = make(answer)
    events = await collect(generator, a_request(stop=StopOptions(stop_token_ids=frozenset({answer[3]}))))
    finished = finished_of(events)
    assert (finished.reason, finished.stop_token_id) == (EndReason.STOP_TOKEN, answer[3])
    assert tokens_of(events) == answer[:4]
    assert text_of(events) == full_tokenizer.decode(answer[:3])


async def test_an_output_cut_within_a_character_says_so(make: Make, processor: TextProcessor):
    ids = processor.encode(TextPrompt("a🙂"))
    generator, _ = make(ids)
    events = await collect(generator, a_request(stop=StopOptions(max_output_tokens=len(ids) - 1)))
    assert text_of(events) == "a\ufffd"
    finished = finished_of(events)
    assert (finished.reason, finished.stop_token_id, finished.stop_string) == (EndReason.LENGTH, None, None)


async def test_end_of_sequence_tokens_can_be_ignored(make: Make, answer: list[int], end: int):
    generator, _ = make([end, *answer, end, *answer])
    events = await collect(generator, a_request(stop=StopOptions(ignore_eos=True, max_output_tokens=len(answer) + 1)))
    assert text_of(events) == ANSWER
    assert finished_of(events).reason is EndReason.LENGTH


async def test_a_stop_string_cuts_the_text_and_ends_the_engines_generation_first(make: Make, answer: list[int]):
    generator, engine = make(answer)
    request = a_request(stop=StopOptions(stop_strings=("END", "none")))
    events: list[GenerationEvent] = []
    async for event in generator.stream(request):
        events.append(event)
        if isinstance(event, Finished):
            assert engine.ended == [request.envelope.request_id]
    assert text_of(events) == ANSWER[: ANSWER.index("END")]
    finished = finished_of(events)
    assert (finished.reason, finished.stop_string) == (EndReason.STOP_STRING, "END")
    assert finished.output_tokens == len(tokens_of(events)) < len(answer)


@pytest.mark.parametrize("sizes", [(1,), (3,), (100,)])
async def test_log_probabilities_are_cut_with_the_tokens(
    processor: TextProcessor, card: ModelCard, answer: list[int], sizes: tuple[int, ...]
):
    generator = Generator(processor, GroupingEngine(answer, card, sizes), card)
    request = replace(a_request(stop=StopOptions(stop_strings=("END",))), top_logprobs=2)
    events = await collect(generator, request)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert finished_of(events).output_tokens == len(tokens_of(events)) < len(answer)
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in deltas)
    records = [record for delta in deltas for record in delta.logprobs]
    assert [record.top[0][0] for record in records] == tokens_of(events)
    assert {len(record.top) for record in records} == {2}


async def test_timings_at_a_stop_string_are_by_the_engines_clock(
    processor: TextProcessor, card: ModelCard, answer: list[int]
):
    generator = Generator(processor, EarlyEngine(lambda _: answer, card=card), card)
    timings = finished_of(await collect(generator, a_request(stop=StopOptions(stop_strings=("END",))))).timings
    assert replace(timings, finished_unix_ns=0) == Timings(10, 20, 30, 0)
    assert timings.first_token_unix_ns < timings.finished_unix_ns < time.time_ns() // 2


@given(data=st.data())
async def test_how_the_engine_groups_its_tokens_changes_nothing(
    processor: TextProcessor, card: ModelCard, control_ids: dict[str, int], data: st.DataObject
):
    end = control_ids["<|im_end|>"]
    output = [*processor.encode(TextPrompt(ANSWER)), end]
    stop = StopOptions(
        stop_strings=data.draw(st.sampled_from([(), ("END",), ("\n",), ("🙂", "END"), ("nowhere",)])),
        min_output_tokens=data.draw(st.integers(0, len(output))),
        max_output_tokens=data.draw(st.integers(len(output), len(output) + 5)),
    )
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    seen = set[object]()
    for engine in (FakeEngine(lambda _: output, card=card), GroupingEngine(output, card, sizes)):
        events = await collect(Generator(processor, engine, card), a_request(stop=stop))
        finished = finished_of(events)
        seen.add((text_of(events), *tokens_of(events), finished.reason, finished.stop_string, finished.output_tokens))
    assert len(seen) == 1


async def test_unset_options_are_the_models_and_the_seed_is_drawn(make: Make, card: ModelCard, answer: list[int]):
    generator, engine = make(answer)
    first, second = [started_of(await collect(generator, a_request())) for _ in range(2)]
    assert replace(first.sampling, seed=0) == replace(card.default_sampling, seed=0)
    assert first.sampling.seed != second.sampling.seed
    assert [request.sampling for request in engine.requests] == [first.sampling, second.sampling]
    assert first.stop.max_output_tokens == card.default_max_output_tokens
    assert (first.stop.min_output_tokens, first.stop.stop_token_ids, first.stop.ignore_eos) == (0, frozenset(), False)


async def test_chosen_options_are_kept_zeros_included(make: Make, answer: list[int]):
    generator, _ = make(answer)
    sampling = SamplingOptions(0.0, 0, 0.5, 0.0, 1.5, -1.0, 0.5, 0, ((1, 2.0),))
    started = started_of(await collect(generator, a_request(sampling=sampling)))
    assert started.sampling == SamplingParams(
        temperature=0.0,
        top_k=0,
        top_p=0.5,
        min_p=0.0,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=0.5,
        seed=0,
        logit_bias=((1, 2.0),),
    )


async def test_unset_output_tokens_are_what_the_context_has_left(make: Make, card: ModelCard):
    generator, _ = make([1] * card.context_tokens)
    prompt = TokenPrompt((1,) * (card.context_tokens - 5))
    assert finished_of(await collect(generator, a_request(prompt))).output_tokens == 5


BAD: list[tuple[str, GenerationRequest]] = [
    ("stop.max_output_tokens", a_request(stop=StopOptions(max_output_tokens=0))),
    ("stop.max_output_tokens", a_request(stop=StopOptions(max_output_tokens=129))),
    ("stop.min_output_tokens", a_request(stop=StopOptions(max_output_tokens=5, min_output_tokens=6))),
    ("stop.min_output_tokens", a_request(stop=StopOptions(min_output_tokens=33))),
    ("stop.stop_token_ids", a_request(stop=StopOptions(stop_token_ids=frozenset({1_000_000})))),
    ("tokens.ids", a_request(TokenPrompt((1, 1_000_000)))),
    ("tokens.ids", a_request(TokenPrompt((-1,)))),
    ("tokens", a_request(TokenPrompt(()))),
    ("text", a_request(TextPrompt(""))),
    ("text", a_request(TextPrompt("a\ud800"))),
    ("chat.messages[0].text", a_request(ChatPrompt((ChatMessage(Role.USER, "\udfff"),)))),
    ("resume.output_token_ids", a_request(resume=ResumePoint((), 1), sampling=SamplingOptions(seed=1))),
    ("resume.output_token_ids", a_request(resume=ResumePoint((1,) * 33, 1), sampling=SamplingOptions(seed=1))),
    ("resume.output_token_ids", a_request(resume=ResumePoint((1_000_000,), 1), sampling=SamplingOptions(seed=1))),
    ("sampling.seed", a_request(resume=ResumePoint((1,), 1))),
]


@pytest.mark.parametrize(("field", "request_"), BAD)
async def test_a_bad_field_is_named_and_the_engine_not_asked(make: Make, field: str, request_: GenerationRequest):
    generator, engine = make([1])
    with pytest.raises(InvalidRequest) as caught:
        await collect(generator, request_)
    assert caught.value.field == field
    assert not isinstance(caught.value, ContextLengthExceeded)
    assert engine.started == []


TOO_LONG: list[tuple[str, Prompt, StopOptions, str]] = [
    ("tokens", TokenPrompt((1,) * 256), StopOptions(), "256"),
    ("text", TextPrompt("a b " * 200), StopOptions(), "256"),
    ("chat", ChatPrompt((ChatMessage(Role.USER, "a b " * 200),)), StopOptions(), "256"),
    # Refused unread: no tokens are so long that these would fit.
    ("text", TextPrompt("a" * 10_000_000 + "\ud800"), StopOptions(), "256"),
    ("stop.max_output_tokens", TokenPrompt((1,) * 200), StopOptions(max_output_tokens=57), "at most 56"),
]


@pytest.mark.parametrize(("field", "prompt", "stop", "number"), TOO_LONG)
async def test_what_does_not_fit_the_context_is_refused_with_numbers(
    make: Make, field: str, prompt: Prompt, stop: StopOptions, number: str
):
    generator, engine = make([1])
    with pytest.raises(ContextLengthExceeded, match=number) as caught:
        await collect(generator, a_request(prompt, stop=stop))
    assert caught.value.field == field
    assert engine.started == []


async def test_the_context_can_be_filled_to_the_last_token(make: Make):
    generator, _ = make([1] * 256)
    events = await collect(generator, a_request(TokenPrompt((1,) * 200), stop=StopOptions(max_output_tokens=56)))
    assert finished_of(events).output_tokens == 56


async def test_a_model_without_a_template_takes_no_conversation(folder: Path, card: ModelCard):
    processor = TextProcessor(QwenTokenizer.from_folder(folder), None)
    generator = Generator(processor, FakeEngine(card=card), card)
    assert not generator.has_chat_template
    with pytest.raises(InvalidRequest) as caught:
        await collect(generator, a_request())
    assert caught.value.field == "chat"
    assert text_of(await collect(generator, a_request(TextPrompt("Hello"))))


def test_a_tokenizer_of_another_model_is_refused(processor: TextProcessor, card: ModelCard):
    small = replace(card, vocabulary_tokens=processor.vocabulary_tokens - 1)
    with pytest.raises(UnusableTokenizer):
        Generator(processor, FakeEngine(card=small), small)


def test_prompts_are_counted(make: Make, processor: TextProcessor, card: ModelCard):
    generator, engine = make([1])
    assert generator.count(HELLO) == len(processor.encode(HELLO))
    assert generator.count(TextPrompt("a b " * 200)) > card.context_tokens, "beyond the context, too"
    assert generator.count(TokenPrompt((1, 2, 3))) == 3
    assert engine.started == []


async def test_a_long_prompt_does_not_stop_the_event_loop(processor: TextProcessor, card: ModelCard):
    card = replace(card, context_tokens=10_000_000)
    generator = Generator(processor, FakeEngine(lambda _: [1], card=card), card)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(turn())
    async with aclosing(generator.stream(a_request(TextPrompt("the end " * 100_000)))) as events:
        await anext(events)
    task.cancel()
    assert turns > 20


async def test_a_refusal_comes_before_the_start(make: Make):
    generator, _ = make([1] * 9, max_running=0, max_waiting=0)
    events: list[GenerationEvent] = []
    with pytest.raises(QueueFull):
        await collect(generator, a_request(), events)
    assert events == []


async def test_a_generation_starts_while_it_waits_and_can_be_cancelled_by_its_id(make: Make):
    generator, engine = make([1] * 9, max_running=0)
    request = a_request()
    async with aclosing(generator.stream(request)) as events:
        assert isinstance(await anext(events), Started)
        assert await engine.cancel(request.envelope.request_id)
        with pytest.raises(GenerationCancelled):
            await anext(events)
    assert engine.ended == [request.envelope.request_id]


async def test_a_failure_of_the_engine_is_passed_on(make: Make):
    generator, engine = make([1] * 9, fail_after=3, failure=NumericalError())
    events: list[GenerationEvent] = []
    with pytest.raises(NumericalError):
        await collect(generator, a_request(), events)
    assert len(tokens_of(events)) == 3
    assert engine.ended == engine.started


async def test_an_engine_that_ends_without_a_reason_is_dead(processor: TextProcessor, card: ModelCard):
    for output in ([], [1, 2]):
        generator = Generator(processor, SilentEngine(lambda _, output=output: output, card=card), card)
        with pytest.raises(EngineUnavailable):
            await collect(generator, a_request())


@pytest.mark.parametrize("taken", [0, 1, 3])
async def test_closing_the_stream_ends_the_engines_generation(make: Make, taken: int):
    generator, engine = make([1] * 30)
    stream = generator.stream(a_request())
    for _ in range(taken):
        await anext(stream)
    await stream.aclose()
    assert engine.ended == engine.started
    assert len(engine.started) == min(taken, 1)


@pytest.mark.parametrize("waiting", [True, False])
async def test_cancelling_the_task_ends_the_engines_generation(make: Make, waiting: bool):  # noqa: FBT001
    generator, engine = make([1] * 30, step_s=30.0, max_running=0 if waiting else 1)
    for delay_s in (0.0, 0.2):
        task = asyncio.create_task(collect(generator, a_request()))
        while len(engine.started) == len(engine.ended):  # noqa: ASYNC110 - the fake engine tells nobody
            await asyncio.sleep(0)
        await asyncio.sleep(delay_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.ended == engine.started
