"""What a reader makes of a stream that broke where it hurts most: between a token and what belongs to it."""

from __future__ import annotations

from typing import Any

import pytest

from qwire.client import Delta, Finished, ModelChanged, Started, StreamBroken, ToolCall
from qwire.client.generation_reader import GenerationReader
from qwire.v1 import generate_pb2, types_pb2

Response = generate_pb2.StreamGenerateResponse
REQUEST = generate_pb2.StreamGenerateRequest(spec=types_pb2.GenerationSpec(text="hi"))
TEXT, REASONING = types_pb2.CHANNEL_TEXT, types_pb2.CHANNEL_REASONING


def started(sequence: int = 1, revision: str = "r", prompt_tokens: int = 3) -> Response:
    event = types_pb2.GenerationStarted(
        generation_id=f"g{sequence}", model="m", model_revision=revision, prompt_tokens=prompt_tokens
    )
    event.sampling.seed = 2**64 - 1
    return Response(sequence=sequence, started=event)


def delta(sequence: int, text: str, *tokens: int, channel: types_pb2.Channel.ValueType = TEXT) -> Response:
    infos = [types_pb2.TokenInfo(id=token) for token in tokens]
    return Response(sequence=sequence, delta=generate_pb2.GenerationDelta(channel=channel, text=text, tokens=infos))


def call(sequence: int, name: str = "f") -> Response:
    return Response(sequence=sequence, tool_call=types_pb2.ToolCall(id="1", name=name))


def prompt(sequence: int, text: str, *tokens: int) -> Response:
    infos = [types_pb2.TokenInfo(id=token, logprob=-sequence) for token in tokens]
    return Response(sequence=sequence, prompt=types_pb2.GenerationPrompt(text=text, tokens=infos))


def finished(sequence: int) -> Response:
    return Response(sequence=sequence, finished=types_pb2.GenerationFinished())


def reader_of(*responses: Response) -> GenerationReader:
    reader = GenerationReader()
    for response in responses:
        reader.read(response)
    return reader


def test_before_the_first_token_the_generation_begins_anew_with_the_same_seed() -> None:
    reader = reader_of(started())
    assert reader.resume_point is None
    rest = reader.rest(REQUEST).spec
    assert not rest.HasField("resume")
    assert rest.sampling.seed == 2**64 - 1
    events = [reader.read(response) for response in (started(1), delta(2, "a", 7), finished(3))]
    assert [type(event) for event in events] == [type(None), Delta, Finished]
    assert reader.generation().text == "a"


@pytest.mark.parametrize(
    "pieces",
    [
        [("ab", 1, 2), ("cde", 3, 4, 5)],
        [("abcde", 1, 2, 3, 4, 5)],
        [("", 1), ("a", 2, 3), ("b",), ("cde", 4, 5)],
        [("abc", 1, 2, 3), ("de", 4, 5)],
        [("abcd", 1, 2, 3), ("e", 4, 5)],
    ],
)
def test_a_prompt_that_comes_in_other_pieces_is_told_once(pieces: list[tuple[Any, ...]]) -> None:
    reader = reader_of(started(), prompt(2, "ab", 1), prompt(3, "c", 2, 3))
    for _ in range(2):
        reader.rest(REQUEST)
        reader.read(started(1))
        for number, piece in enumerate(pieces, 2):
            reader.read(prompt(number, *piece))
    reader.read(delta(2 + len(pieces), "a", 7))
    reader.read(finished(3 + len(pieces)))
    whole = reader.generation().prompt
    assert whole.text == "abcde"
    assert [token.id for token in whole.tokens] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("other", [prompt(2, "ax", 1, 2), prompt(2, "ab", 1, 9), delta(2, "a", 7), finished(2)])
def test_another_prompt_than_before_is_an_error(other: Response) -> None:
    reader = reader_of(started(), prompt(2, "ab", 1), prompt(3, "c", 2, 3))
    reader.rest(REQUEST)
    reader.read(started(1))
    with pytest.raises(StreamBroken):
        reader.read(other)


def test_what_came_ahead_of_its_token_is_not_told_twice() -> None:
    ahead = (delta(3, "hm", channel=REASONING), call(4))
    reader = reader_of(started(), delta(2, "a", 7), *ahead)
    rest = reader.rest(REQUEST).spec
    assert list(rest.resume.output_token_ids) == [7]
    assert rest.resume.last_sequence == 4
    again = (started(5), delta(6, "hm", channel=REASONING))
    assert [reader.read(response) for response in again] == [None, None]
    # It breaks again before all of it was repeated.
    assert reader.rest(REQUEST).spec.resume.last_sequence == 4
    again = (started(5), delta(6, "hm", channel=REASONING), call(7))
    assert [reader.read(response) for response in again] == [None] * 3
    assert isinstance(reader.read(delta(8, "b", 8)), Delta)
    assert reader.rest(REQUEST).spec.resume.last_sequence == 5
    assert reader.read(started(6)) is None
    assert isinstance(reader.read(call(7)), ToolCall)
    reader.read(delta(8, "", 9))
    reader.read(finished(9))
    generation = reader.generation()
    assert (generation.text, generation.reasoning, len(generation.tool_calls)) == ("ab", "hm", 2)
    assert [token.id for token in generation.tokens] == [7, 8, 9]


def test_a_resumed_stream_that_says_something_else_is_broken() -> None:
    reader = reader_of(started(), delta(2, "a", 7), call(3))
    reader.rest(REQUEST)
    reader.read(started(4))
    with pytest.raises(StreamBroken, match="something else"):
        reader.read(call(5, name="g"))


@pytest.mark.parametrize("responses", [(delta(3, "b", 8),), (started(4),), (started(3), started(4))])
def test_a_resumed_stream_is_held_to_its_contract(responses: tuple[Response, ...]) -> None:
    reader = reader_of(started(), delta(2, "a", 7))
    reader.rest(REQUEST)
    *well, broken = responses
    for response in well:
        reader.read(response)
    with pytest.raises(StreamBroken):
        reader.read(broken)


def test_a_gap_after_a_resume_is_found() -> None:
    reader = reader_of(started(), delta(2, "a", 7))
    reader.rest(REQUEST)
    reader.read(started(3))
    with pytest.raises(StreamBroken, match="event 5 came where 4 was due"):
        reader.read(delta(5, "b", 8))


@pytest.mark.parametrize("other", [started(3, revision="s"), started(3, prompt_tokens=4)])
def test_another_model_cannot_go_on(other: Response) -> None:
    reader = reader_of(started(), delta(2, "a", 7))
    reader.rest(REQUEST)
    with pytest.raises(ModelChanged, match="'m'"):
        reader.read(other)


def test_hidden_tokens_leave_no_gap() -> None:
    reader = GenerationReader(types_pb2.GenerationSpec(), hide_tokens=True)
    events = [
        reader.read(response)
        for response in (started(), delta(2, "", 1), delta(3, "é", 2), delta(4, "", 3), finished(5))
    ]
    assert [type(event) for event in events] == [Started, type(None), Delta, type(None), Finished]
    assert reader.generation().tokens == ()
    assert reader.generation().text == "é"
    assert reader.output_tokens == 3
