"""Client spans: one for every call, where the application has OpenTelemetry.

`pip install qwire[otel]` and an OpenTelemetry SDK set up by the application are all that it takes. Without them nothing
is traced, and nothing is paid for it.
"""

from __future__ import annotations

from importlib.util import find_spec

import grpc
import grpc.aio


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
