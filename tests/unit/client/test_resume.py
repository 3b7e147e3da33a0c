"""A stream that breaks goes on as if it had not, or says where it stood."""

from __future__ import annotations

from typing import cast

import grpc
import pytest

from qwire.client import (
    AsyncClient,
    Client,
    ClientOptions,
    Delta,
    FinishReason,
    GenerationOptions,
    InvalidRequest,
    ResumeOptions,
    ResumePoint,
    Started,
    ToolCall,
    Unavailable,
)
from qwire.client.testing import Answer, Failure, FakeServer
from qwire.v1 import generate_pb2

TEXT = "one two three four five six"
FAST = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_backoff_s=0.02))
SLOW = ClientOptions(resume=ResumeOptions(initial_backoff_s=50, max_backoff_s=50))
ONCE = Answer(text=TEXT, drop_after=(2,))
OVERLOADED = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_s=0.01)


def requests(server: FakeServer) -> list[generate_pb2.StreamGenerateRequest]:
    return [cast("generate_pb2.StreamGenerateRequest", call.request) for call in server.calls_of("StreamGenerate")]


def test_the_caller_sees_one_stream() -> None:
    calls = (ToolCall("1", "weather", "{}"),)
    answer = Answer(text=TEXT, reasoning="let me see", tool_calls=calls, drop_after=(1, 2, 5, 9))
    undisturbed = Answer(text=TEXT, reasoning="let me see", tool_calls=calls)
    with FakeServer(answers=[answer, undisturbed]) as server, Client(server.target, FAST) as client:
        events = list(stream := client.stream("hi", top_logprobs=1))
        whole = client.stream("hi", top_logprobs=1).generation()
        assert len(server.calls) == 6
    assert [type(event) for event in events].count(Started) == 1
    generation = stream.generation()
    assert generation.text == TEXT == "".join(e.text for e in events if isinstance(e, Delta))[len("let me see") :]
    for name in ("text", "reasoning", "tool_calls", "tokens", "usage"):
        assert getattr(generation, name) == getattr(whole, name)
    assert generation.finished.reason is FinishReason.TOOL_CALLS


async def test_the_caller_sees_one_stream_with_asyncio() -> None:
    with FakeServer(answers=[Answer(text=TEXT, drop_after=(1, 2, 6))]) as server:
        async with AsyncClient(server.target, FAST) as client:
            stream = client.stream("hi")
            events = [event async for event in stream]
            assert [type(event) for event in events].count(Started) == 1
            generation = await stream.generation()
        assert len(server.calls) == 4
    assert generation.text == TEXT
    assert [token.id for token in generation.tokens] == list(range(6))


def test_the_request_goes_on_with_what_the_server_decided() -> None:
    with FakeServer(answers=[ONCE]) as server, Client(server.target, FAST) as client:
        stream = client.stream("hi", temperature=0.25)
        started = next(stream)
        assert isinstance(started, Started)
        stream.generation()
        first, second = (request.spec for request in requests(server))
        assert stream.generation_id not in {"", started.generation_id}
        assert stream.generation().started == started
    assert not first.sampling.HasField("seed")
    assert second.sampling.seed == started.sampling.seed
    assert second.sampling.temperature == 0.25
    assert second.sampling.top_k == 20
    assert second.stop.max_output_tokens == 512
    assert second.model == "fake"
    assert second.chat == first.chat
    assert list(second.resume.output_token_ids) == [0, 1]
    assert second.resume.last_sequence == 3


def test_tokens_that_nobody_asked_for_are_left_out() -> None:
    with FakeServer(answers=[ONCE, Answer(text=TEXT)]) as server, Client(server.target, FAST) as client:
        generation = client.stream("hi", token_info=False).generation()
        assert generation.text == TEXT
        assert generation.tokens == ()
        client.stream("hi", token_info=False, auto_resume=False).generation()
        reported = [request.spec.output.token_info for request in requests(server)]
    assert reported == [True, True, False]


@pytest.mark.parametrize("everywhere", [True, False])
def test_who_wants_no_resume_learns_where_it_stood_and_may_do_it_by_hand(*, everywhere: bool) -> None:
    options = ClientOptions(resume=None) if everywhere else FAST
    sampled: GenerationOptions = {"temperature": 0.5}
    with FakeServer(answers=[ONCE]) as server, Client(server.target, options) as client:
        stream = client.stream("hi", auto_resume=everywhere, **sampled)
        with pytest.raises(Unavailable) as broken:
            stream.generation()
        point = broken.value.resume_point
        assert point == ResumePoint((0, 1), 3, seed=1)
        rest = client.stream("hi", auto_resume=everywhere, resume=point, **sampled).generation()
        assert stream.text + rest.text == TEXT
        assert rest.usage.output_tokens == 7
        assert requests(server)[-1].spec.sampling.seed == 1
        client.stream("hi", resume=point, seed=5).generation()
        assert requests(server)[-1].spec.sampling.seed == 5
        with pytest.raises(InvalidRequest):
            client.stream("hi", resume=ResumePoint((-1,)))


def test_without_tokens_there_is_no_point_to_resume_at() -> None:
    with FakeServer(answers=[ONCE]) as server, Client(server.target) as client:
        with pytest.raises(Unavailable) as broken:
            client.stream("hi", auto_resume=False, token_info=False).generation()
        assert broken.value.resume_point is None


def test_a_resumed_stream_may_break_again() -> None:
    with FakeServer(answers=[Answer(text=TEXT, drop_after=(4,))]) as server, Client(server.target, FAST) as client:
        rest = client.stream("hi", resume=ResumePoint((0, 1), 3)).generation()
        assert rest.text == " three four five six"
        assert [len(request.spec.resume.output_token_ids) for request in requests(server)] == [2, 4]
