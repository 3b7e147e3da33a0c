"""A stream that breaks goes on as if it had not, or says where it stood."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import repeat
from typing import cast

import grpc
import pytest

from qwire.client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientOptions,
    DeadlineExceeded,
    Delta,
    FinishReason,
    GenerationOptions,
    InvalidRequest,
    Overloaded,
    QwireError,
    ResumeOptions,
    ResumePoint,
    RetryOptions,
    ServerError,
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


PERMANENT = Answer(text=TEXT, failure=Failure(), failure_after=2)


@pytest.mark.parametrize("bound", ["attempts", "time"])
def test_attempts_without_a_token_are_bounded(bound: str) -> None:
    many = ResumeOptions(initial_backoff_s=0.05, max_backoff_s=0.05, timeout_s=0.3)
    few = ResumeOptions(initial_backoff_s=0.01, max_attempts=3)
    options = ClientOptions(resume=few if bound == "attempts" else many, retry=None)
    with FakeServer(answers=[PERMANENT]) as server, Client(server.target, options) as client:
        with pytest.raises(Unavailable) as broken:
            client.stream("hi").generation()
        assert broken.value.resume_point == ResumePoint((0, 1), broken.value.resume_point.last_sequence, seed=1)  # pyright: ignore[reportOptionalMemberAccess]
        assert len(server.calls) == 4 if bound == "attempts" else 2 <= len(server.calls) <= 9


def test_a_token_renews_the_attempts() -> None:
    options = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_attempts=1))
    answer = Answer(text=TEXT, drop_after=(1, 2, 3, 4))
    with FakeServer(answers=[answer]) as server, Client(server.target, options) as client:
        assert client.stream("hi").generation().text == TEXT


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Failure(code=grpc.StatusCode.INTERNAL, reason="INTERNAL"), ServerError),
        (Failure(code=grpc.StatusCode.CANCELLED, reason="CANCELLED"), Cancelled),
        (Failure(code=grpc.StatusCode.DEADLINE_EXCEEDED, reason="DEADLINE"), DeadlineExceeded),
        (Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason=""), QwireError),
        (Failure(code=grpc.StatusCode.PERMISSION_DENIED, reason=""), ServerError),
        (Failure(code=grpc.StatusCode.DATA_LOSS, reason=""), ServerError),
        (Failure(pushback_ms=-1), Unavailable),
    ],
)
def test_what_another_call_would_not_mend_is_told_at_once(failure: Failure, error: type[QwireError]) -> None:
    answer = Answer(text=TEXT, failure=failure, failure_after=1)
    with FakeServer(answers=[answer]) as server, Client(server.target, FAST) as client:
        with pytest.raises(error):
            client.stream("hi").generation()
        assert len(server.calls) == 1


def test_a_full_server_is_asked_again_only_by_those_who_had_begun() -> None:
    failures = [OVERLOADED, None, OVERLOADED]
    with FakeServer(answers=[ONCE], failures={"StreamGenerate": failures}) as server:
        with Client(server.target, FAST) as client:
            with pytest.raises(Overloaded):
                client.stream("hi").generation()
            assert client.stream("hi").generation().text == TEXT
        assert len(server.calls) == 4


@pytest.mark.parametrize("how", [{"retry_after_s": 0.4}, {"pushback_ms": 400, "reason": ""}])
def test_the_time_that_a_server_asks_for_is_waited_for(how: dict[str, float]) -> None:
    failure = Failure(code=grpc.StatusCode.UNAVAILABLE, **how)  # pyright: ignore[reportArgumentType] - mixed on purpose
    answers = [Answer(text=TEXT, failure=failure, failure_after=2)]
    options = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_attempts=1), retry=None)
    with FakeServer(answers=answers) as server, Client(server.target, options) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.stream("hi").generation()
        assert time.monotonic() - began >= 0.4
        assert len(server.calls) == 2


def test_a_call_that_had_not_begun_is_retried_by_grpc_alone() -> None:
    retry = RetryOptions(max_attempts=2, initial_backoff_s=0.01, max_backoff_s=0.01)
    with FakeServer(failures={"StreamGenerate": repeat(Failure())}) as server:
        with Client(server.target, ClientOptions(retry=retry)) as client, pytest.raises(Unavailable):
            client.stream("hi").generation()
        assert len(server.calls) == 2


def test_the_deadline_holds_while_nothing_runs() -> None:
    with FakeServer(answers=[ONCE]) as server, Client(server.target, SLOW) as client:
        with pytest.raises(DeadlineExceeded):
            client.stream("hi", timeout_s=10).generation()
        assert len(server.calls) == 1


def test_each_attempt_has_what_is_left_of_the_time() -> None:
    with FakeServer(answers=[Answer(text="one two", drop_after=(1,), delay_s=1.5)]) as server:
        with Client(server.target, FAST) as client:
            client.stream("hi", timeout_s=30).generation()
        first, second = (call.time_remaining_s for call in server.calls)
    assert first is not None
    assert second is not None
    assert second < first - 0.4  # gRPC rounds it up


@pytest.mark.parametrize("how", ["stream", "client"])
def test_cancel_does_not_wait_for_the_next_attempt(how: str) -> None:
    with FakeServer(answers=[ONCE]) as server:
        client = Client(server.target, SLOW)
        stream = client.stream("hi")
        assert [next(stream) for _ in range(3)]
        end = stream.cancel if how == "stream" else client.close
        timer = threading.Timer(0.3, end)
        timer.start()
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(Cancelled):
                next(stream)
        assert time.monotonic() - began < 30
        timer.join()
        client.close()
        assert len(server.calls) == 1


async def test_cancel_does_not_wait_for_the_next_attempt_with_asyncio() -> None:
    with FakeServer(answers=[ONCE]) as server:
        async with AsyncClient(server.target, SLOW) as client:
            tasks = asyncio.all_tasks()
            stream = client.stream("hi")
            assert [await anext(stream) for _ in range(3)]
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.3)
            stream.cancel()
            with pytest.raises(Cancelled):
                await waiting
            waits = client.stream("hi")
            reading = asyncio.ensure_future(waits.generation())
            await asyncio.sleep(0.3)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == tasks


def test_a_stream_that_is_left_while_it_waits_leaves_no_thread() -> None:
    with FakeServer(answers=[ONCE]) as server:
        before = threading.active_count()
        with Client(server.target, SLOW) as client, client.stream("hi") as stream:
            for _ in range(3):
                next(stream)
            threading.Timer(0.2, stream.cancel).start()
            with pytest.raises(Cancelled):
                next(stream)
        deadline = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("timeout_s", 0), ("max_attempts", 0), ("initial_backoff_s", 0), ("max_backoff_s", 0.01)],
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        ResumeOptions(**{option: value})  # pyright: ignore[reportArgumentType] - mixed types


def test_a_script_that_could_never_end_is_refused() -> None:
    with pytest.raises(ValueError, match="drop_after"):
        Answer(text="one", drop_after=(0,))
