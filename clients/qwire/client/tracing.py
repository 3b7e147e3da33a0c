"""Client spans: one for every call, where the application has OpenTelemetry.

`pip install qwire[otel]` and an OpenTelemetry SDK set up by the application are all that it takes. Without them nothing
is traced, and nothing is paid for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Protocol

import grpc
import grpc.aio

STREAM_GENERATE = "/qwire.v1.GenerateService/StreamGenerate"


class CallTrace(Protocol):
    """The trace of one call that may take several attempts."""

    def attempt(self) -> AbstractContextManager[None]:
        """Return the context to start an attempt in."""
        ...

    def resumed(self, code: str, output_tokens: int) -> None:
        """Note that the attempt before ended with a status code after so many tokens, and another one follows."""
        ...

    def finish(self, code: str) -> None:
        """Note the end of it all. Only the first call counts."""
        ...


class Untraced:
    """No trace."""

    def attempt(self) -> AbstractContextManager[None]:
        """Return the context to start an attempt in."""
        return nullcontext()

    def resumed(self, code: str, output_tokens: int) -> None:
        """Note nothing."""

    def finish(self, code: str) -> None:
        """Note nothing."""


def trace_call(method: str, request: object, target: str) -> CallTrace:
    """Begin the trace of a call.

    Args:
        method: The method's path, such as `/qwire.v1.GenerateService/StreamGenerate`.
        request: The first request.
        target: The channel's target.
    """
    if not _has_opentelemetry():
        return Untraced()
    from qwire.client.call_span import CallSpan  # noqa: PLC0415 - its imports may not be installed

    return CallSpan(method, request, target)


def client_interceptors(target: str | None = None) -> list[grpc.UnaryUnaryClientInterceptor]:
    """Return what to give to `grpc.intercept_channel`; nothing where `opentelemetry-api` is not installed.

    Args:
        target: The channel's target, told on the spans; None = not told.
    """
    if not _has_opentelemetry():
        return []
    from qwire.client.traced_call import TracingInterceptor  # noqa: PLC0415 - its imports may not be installed

    return [TracingInterceptor(target)]


def aio_client_interceptors(target: str | None = None) -> list[grpc.aio.ClientInterceptor]:
    """Return what to give to a `grpc.aio` channel; nothing where `opentelemetry-api` is not installed.

    Args:
        target: The channel's target, told on the spans; None = not told.
    """
    if not _has_opentelemetry():
        return []
    from qwire.client.aio_traced_call import interceptors  # noqa: PLC0415 - its imports may not be installed

    return interceptors(target)


def _has_opentelemetry() -> bool:
    # The parent is a namespace that other distributions share: it alone says nothing.
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None
