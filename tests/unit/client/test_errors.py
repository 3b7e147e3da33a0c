"""Every failure is typed and keeps what the server said about it."""

from __future__ import annotations

import pickle
from itertools import repeat
from typing import NoReturn

import grpc
import pytest

from qwire.client import (
    AdapterNotFound,
    AdapterUnusable,
    AsyncClient,
    Cancelled,
    Client,
    ClientOptions,
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    LimitExceeded,
    ModelNotFound,
    NotFound,
    Overloaded,
    QwireError,
    ServerError,
    Unavailable,
    Unsupported,
)
from qwire.client.testing import Answer, Failure, FakeServer

_Code = grpc.StatusCode
_ONCE = ClientOptions(retry=None)


@pytest.mark.parametrize(
    ("code", "reason", "retry_after_s", "kind"),
    [
        (_Code.INVALID_ARGUMENT, "INVALID_FIELD", None, InvalidRequest),
        (_Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", None, InvalidRequest),
        (_Code.INVALID_ARGUMENT, "CONTEXT_LENGTH", None, ContextLengthExceeded),
        (_Code.INVALID_ARGUMENT, "UNSUPPORTED", None, Unsupported),
        (_Code.NOT_FOUND, "MODEL_NOT_FOUND", None, ModelNotFound),
        (_Code.NOT_FOUND, "ADAPTER_NOT_FOUND", None, AdapterNotFound),
        (_Code.FAILED_PRECONDITION, "ADAPTER_UNUSABLE", None, AdapterUnusable),
        (_Code.NOT_FOUND, "JOB_NOT_FOUND", None, NotFound),
        (_Code.ALREADY_EXISTS, "CHUNK_CONFLICT", None, Conflict),
        (_Code.FAILED_PRECONDITION, "JOB_NOT_OPEN", None, Conflict),
        (_Code.FAILED_PRECONDITION, "ANYTHING", None, ServerError),
        (_Code.RESOURCE_EXHAUSTED, "OVERLOADED", 1.5, Overloaded),
        (_Code.RESOURCE_EXHAUSTED, "CAPACITY", None, LimitExceeded),
        (_Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", None, LimitExceeded),
        (_Code.DEADLINE_EXCEEDED, "DEADLINE", None, DeadlineExceeded),
        (_Code.CANCELLED, "CANCELLED", None, Cancelled),
        (_Code.UNAVAILABLE, "DRAINING", 0.25, Unavailable),
        (_Code.INTERNAL, "NUMERICAL", None, ServerError),
        (_Code.PERMISSION_DENIED, "", None, ServerError),
        (_Code.UNIMPLEMENTED, "", None, ServerError),
    ],
)
def test_each_status_has_its_error(
    code: grpc.StatusCode, reason: str, retry_after_s: float | None, kind: type[QwireError]
) -> None:
    failure = Failure(
        code=code, reason=reason, message="why", metadata={"a": "b"} if reason else {}, retry_after_s=retry_after_s
    )
    with (
        FakeServer(failures={"Generate": [failure]}) as server,
        Client(server.target, _ONCE) as client,
        pytest.raises(QwireError) as raised,
    ):
        client.generate("hi")
    error = raised.value
    assert type(error) is kind
    assert (error.code, error.reason, error.retry_after_s) == (code, reason, retry_after_s)
    assert error.metadata == failure.metadata
    assert reason == "DEADLINE" or str(error) == error.message == "why"


async def test_both_clients_and_every_kind_of_call_raise_the_same() -> None:
    failure = Failure(
        code=_Code.INVALID_ARGUMENT,
        reason="INVALID_FIELD",
        message="2 fields are at fault",
        violations=(("spec.sampling.top_p", "must be in (0, 1]"), ("spec.stop", "no")),
        metadata={"generation_id": "g1"},
    )
    methods = ("Generate", "StreamGenerate", "BatchGenerate", "StreamBatchGenerate", "WatchServingState", "ProbeModel")
    errors: list[QwireError] = []
    with FakeServer(failures={method: repeat(failure) for method in methods}) as server:
        with Client(server.target) as blocking:
            for call in (
                lambda: blocking.generate("hi"),
                lambda: next(blocking.stream("hi")),
                lambda: blocking.batch(["hi"]),
                lambda: next(blocking.stream_batch(["hi"])),
                lambda: next(blocking.watch_health()),
                blocking.probe,
            ):
                with pytest.raises(QwireError) as raised:
                    call()
                errors.append(raised.value)
        async with AsyncClient(server.target) as client:
            for awaitable in (
                client.generate("hi"),
                anext(client.stream("hi")),
                client.batch(["hi"]),
                anext(client.stream_batch(["hi"])),
                anext(client.watch_health()),
                client.probe(),
            ):
                with pytest.raises(QwireError) as raised:
                    await awaitable
                errors.append(raised.value)
    assert len(errors) == 12
    for error in errors:
        assert type(error) is InvalidRequest
        assert error.violations == (
            FieldViolation("spec.sampling.top_p", "must be in (0, 1]"),
            FieldViolation("spec.stop", "no"),
        )
        assert error.generation_id == "g1"


def test_a_failure_in_midstream_keeps_what_came_and_names_the_generation() -> None:
    answer = Answer(text="one two three", failure=Failure(code=_Code.INTERNAL, reason="NUMERICAL"), failure_after=2)
    with FakeServer(answers=[answer]) as server, Client(server.target) as client:
        stream = client.stream("hi")
        with pytest.raises(ServerError) as raised:
            stream.generation()
        assert stream.text == "one two"
        assert stream.started is not None
        assert raised.value.generation_id == stream.started.generation_id
        with pytest.raises(ServerError):  # the stream stays failed, it does not become a short one
            stream.generation()


def test_a_server_that_is_not_there() -> None:
    with FakeServer() as server:
        target = server.target
    with Client(target, _ONCE) as client, pytest.raises(Unavailable) as raised:
        client.generate("hi")
    assert raised.value.reason == ""
    assert raised.value.retry_after_s is None


def test_mangled_details_leave_code_and_message() -> None:
    class Mangled(Failure):
        def abort(self, context: grpc.ServicerContext) -> NoReturn:
            context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
            context.abort(self.code, self.message)

    failure = Mangled(code=_Code.NOT_FOUND, message="gone")
    with (
        FakeServer(failures={"Generate": [failure]}) as server,
        Client(server.target) as client,
        pytest.raises(NotFound, match="gone") as raised,
    ):
        client.generate("hi")
    assert raised.value.reason == ""


def test_a_message_larger_than_allowed() -> None:
    options = ClientOptions(max_receive_bytes=2000)
    with FakeServer(reply="word " * 1000) as server, Client(server.target, options) as client:
        with pytest.raises(LimitExceeded):
            client.generate("hi")
        assert client.stream("hi").generation().text == "word " * 1000  # no single message is large
    small = ClientOptions(max_send_bytes=1000)
    with FakeServer() as server, Client(server.target, small) as client, pytest.raises(LimitExceeded):
        client.generate("x" * 2000)


def test_errors_survive_pickling() -> None:
    error = InvalidRequest.of("spec.text", "must not be empty")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is InvalidRequest
    assert (again.violations, again.code, str(again)) == (error.violations, error.code, str(error))
