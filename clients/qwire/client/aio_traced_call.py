"""Client interceptors of `grpc.aio` that trace every call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio

from qwire.client.call_span import ATTEMPT_OF, CallSpan

_UnaryCall = grpc.aio.UnaryUnaryCall[Any, Any]
_StreamCall = grpc.aio.UnaryStreamCall[Any, Any]
_CallT = TypeVar("_CallT", _UnaryCall, _StreamCall)


def interceptors(target: str | None) -> list[grpc.aio.ClientInterceptor]:
    """Return one interceptor per kind of call: `grpc.aio` looks at no more than one kind of each."""
    return [_UnaryInterceptor(target), _StreamInterceptor(target)]


class _UnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, target: str | None) -> None:
        self._target = target

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[_UnaryCall]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> _UnaryCall:
        return await _traced(continuation, client_call_details, request, self._target)


class _StreamInterceptor(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, target: str | None) -> None:
        self._target = target

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[_StreamCall]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> _StreamCall:
        return await _traced(continuation, client_call_details, request, self._target)


async def _traced(
    continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[_CallT]],
    details: grpc.aio.ClientCallDetails,
    request: Any,
    target: str | None,
) -> _CallT:
    whole = ATTEMPT_OF.get()
    span = whole or CallSpan(details.method, request, target)
    metadata = grpc.aio.Metadata(*span.with_trace_context(details.metadata))
    try:
        call = await continuation(
            grpc.aio.ClientCallDetails(
                details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
            ),
            request,
        )
    except BaseException:
        span.finish("CANCELLED")  # by the task that waits; nothing has been sent
        raise
    if whole is not None:
        return call  # whoever makes the attempts knows when it ends
    # gRPC reports the end of every call here; one that nobody reads to its end ends with its channel.
    call.add_done_callback(lambda done: span.finish(_code_of(done)))
    return call


def _code_of(done: grpc.aio.Call) -> str:
    # Its status is there, so the coroutine returns without waiting; a callback could not wait.
    coroutine = done.code()
    try:
        coroutine.send(None)
    except StopIteration as returned:
        return returned.value.name
    coroutine.close()
    return "UNKNOWN"
