"""Client interceptor of blocking gRPC that traces every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from qwire.client.call_span import ATTEMPT_OF, CallSpan, Metadatum

Continuation = Callable[[grpc.ClientCallDetails, Any], Any]


class TracingInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Traces calls with one request.

    Args:
        target: The channel's target, told on the spans; None = not told.
    """

    def __init__(self, target: str | None) -> None:
        self._target = target

    def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Trace a call with one response, blocking or as a future."""
        span, call = self._begin(continuation, client_call_details, request)

        def ended(done: grpc.Call) -> None:
            span.finish(done.code().name)

        call.add_done_callback(ended)
        return call

    def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Trace a call with a stream of responses."""
        whole = ATTEMPT_OF.get()
        if whole is not None:
            metadata = whole.with_trace_context(client_call_details.metadata)
            return continuation(_Details(client_call_details, metadata), request)
        span, call = self._begin(continuation, client_call_details, request)
        if not call.add_callback(lambda: span.finish(call.code().name)):
            span.finish(call.code().name)
        return _TracedStream(call, span)

    def _begin(self, continuation: Continuation, details: grpc.ClientCallDetails, request: Any) -> tuple[CallSpan, Any]:
        span = CallSpan(details.method, request, self._target)
        try:
            return span, continuation(_Details(details, span.with_trace_context(details.metadata)), request)
        except BaseException:
            span.finish("CANCELLED")  # such as by Ctrl-C: errors of the call are returned, not raised
            raise


class _Details(grpc.ClientCallDetails):
    """A call's details with other metadata."""

    def __init__(self, details: grpc.ClientCallDetails, metadata: list[Metadatum]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = tuple(metadata)
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class _TracedStream:
    """A call whose end is known even if nobody reads it to its end.

    gRPC cancels a call that is dropped; the call itself cannot tell us of it, since what it would have to call keeps it
    alive. So the caller holds this in its place.
    """

    def __init__(self, call: Any, span: CallSpan) -> None:
        self._call = call
        self._span = span

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._call)

    def cancel(self) -> bool:
        cancelled: bool = self._call.cancel()
        if cancelled:
            self._span.finish("CANCELLED")
        return cancelled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __del__(self) -> None:
        self.cancel()
