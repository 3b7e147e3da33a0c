"""One call as telemetry sees it, from its headers to its end: span, request id, log context, measurement, log line."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from structlog.contextvars import bind_contextvars, clear_contextvars

from qwire.telemetry import names
from qwire.telemetry.logging import get_logger
from qwire.telemetry.propagation import TRACEPARENT, TRACESTATE, extract
from qwire.telemetry.setup import Telemetry

log = get_logger(__name__)

REQUEST_ID_KEY = "x-request-id"
"""Metadata key: callers may send an id of their own, every call's trailing metadata carries the one in force."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
# A caller's deadline reaches us rounded up by as much as 1 %, and its end of the call may be first to notice.
_DEADLINE_SLACK_S = 0.05
_DEADLINE_SLACK_RATIO = 0.01
_METHOD_CHARACTERS = 256

Metadata = Iterable[tuple[str, str | bytes]]
Context = grpc.aio.ServicerContext[Any, Any]


class TracedCall:
    """One call. Made in the call's own task, whose context variables it binds: they end with the task.

    Args:
        telemetry: Where span and measurement go.
        method: Full method name without the leading slash.
        metadata: What the caller sent; its trace context and request id are taken up.
    """

    def __init__(self, telemetry: Telemetry, method: str, metadata: Metadata) -> None:
        headers = _text_headers(metadata)
        self._metrics = telemetry.metrics
        self._method = method
        self._started_unix_ns = time.time_ns()
        self._started_s = time.perf_counter()
        self._ended = False
        given = headers.get(REQUEST_ID_KEY, "")
        self._request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._span = telemetry.tracer.start_span(
            method,
            extract(headers.get(TRACEPARENT), headers.get(TRACESTATE)),
            SpanKind.SERVER,
            {names.RPC_SYSTEM_NAME: names.GRPC, names.RPC_METHOD: method, names.REQUEST_ID: self._request_id},
            start_time=self._started_unix_ns,
        )
        self._context = trace.set_span_in_context(self._span, otel_context.Context())
        otel_context.attach(self._context)
        clear_contextvars()
        bind_contextvars(request_id=self._request_id)

    def finish_with_task(self) -> None:
        """Make sure of an end: a handler is never called when the caller cancels before its request is here."""
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(lambda _: self.finish("CANCELLED"))

    @contextmanager
    def handled(self, context: Context) -> Generator[None]:
        """End the call with whatever its handler ends with."""
        granted_s: float | None = context.time_remaining()
        context.set_trailing_metadata(((REQUEST_ID_KEY, self._request_id),))
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.InternalError):
            # An internal error is a failed send or receive: the caller has gone, and the cancellation is on its way.
            # Where the call was ended with a status before that, which could not be sent, the status is what it was.
            self.finish(_code_name(context, "DEADLINE_EXCEEDED" if _is_overdue(context, granted_s) else "CANCELLED"))
            raise
        except BaseException:
            self.finish(_code_name(context, "UNKNOWN"))
            raise
        else:
            self.finish(_code_name(context, "OK"))

    def finish_unknown_method(self) -> None:
        """End a call that nobody handles."""
        original, self._method = self._method[:_METHOD_CHARACTERS], names.UNKNOWN_METHOD
        self._span.update_name(names.GRPC)
        self._span.set_attributes({names.RPC_METHOD: self._method, names.RPC_METHOD_ORIGINAL: original})
        self.finish("UNIMPLEMENTED")

    def finish(self, code: str) -> None:
        """End span and measurement and write the log line; only the first time."""
        if self._ended:
            return
        self._ended = True
        duration_s = time.perf_counter() - self._started_s
        self._span.set_attribute(names.RPC_STATUS_CODE, code)
        if code in names.SERVER_ERROR_CODES:
            self._span.set_attribute(names.ERROR_TYPE, code)
            self._span.set_status(Status(StatusCode.ERROR))
        self._metrics.record_call(self._method, code, duration_s, self._context)
        log.info("rpc_finished", method=self._method, code=code, duration_ms=round(duration_s * 1000, 3))
        self._span.end(self._started_unix_ns + round(duration_s * 1e9))


def _is_overdue(context: Context, granted_s: float | None) -> bool:
    if granted_s is None:
        return False
    left_s = context.time_remaining()
    return left_s <= max(_DEADLINE_SLACK_S, granted_s * _DEADLINE_SLACK_RATIO)


def _code_name(context: Context, otherwise: str) -> str:
    code: grpc.StatusCode | int | None = context.code()
    if not code:  # neither aborted nor set
        return otherwise
    if isinstance(code, int):
        code = next(one for one in grpc.StatusCode if one.value[0] == code)
    return otherwise if code is grpc.StatusCode.OK else code.name


def _text_headers(metadata: Metadata) -> dict[str, str]:
    headers: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str):
            headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers
