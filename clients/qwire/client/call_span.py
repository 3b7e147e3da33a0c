"""The span of one call, as the client sees it. What is said in the call is never recorded."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar

from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from qwire.v1 import generate_pb2

_W3C = TraceContextTextMapPropagator()
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/,\[\]]+):(\d+)")
# Attribute, part of the spec, field: numbers that shape the answer.
_OPTIONS = (
    ("gen_ai.request.temperature", "sampling", "temperature"),
    ("gen_ai.request.top_p", "sampling", "top_p"),
    ("gen_ai.request.top_k", "sampling", "top_k"),
    ("gen_ai.request.frequency_penalty", "sampling", "frequency_penalty"),
    ("gen_ai.request.presence_penalty", "sampling", "presence_penalty"),
    ("gen_ai.request.max_tokens", "stop", "max_output_tokens"),
)

Attributes = dict[str, AttributeValue]
Metadatum = tuple[str, str | bytes]


ATTEMPT_OF: ContextVar[CallSpan | None] = ContextVar("attempt_of", default=None)
"""The span that the call which is being started is a part of; None = it gets its own."""


class CallSpan:
    """A CLIENT span, ended exactly once, from whichever thread learns the call's end first.

    A stream that is resumed is one span: its servers' spans are all children of it, and an event tells of each break.

    Args:
        method: The method's path, such as `/qwire.v1.GenerateService/Generate`.
        request: The request message.
        target: The channel's target; None = unknown.
    """

    def __init__(self, method: str | bytes, request: object, target: str | None) -> None:
        name = (method.decode() if isinstance(method, bytes) else method).lstrip("/")
        attributes: Attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        span = trace.get_tracer("qwire.client").start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes | _of_target(target) | _of_request(request)
        )
        self._context = trace.set_span_in_context(span, Context())
        self._unended = [span]
        self._resumed = 0

    def with_trace_context(self, metadata: Iterable[Metadatum] | None) -> list[Metadatum]:
        """Return the call's metadata with this span as the server span's parent."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        kept = [(key, value) for key, value in metadata or () if key not in carrier]
        return [*kept, *carrier.items()]

    @contextmanager
    def attempt(self) -> Generator[None]:
        """Have the call that is started meanwhile be a part of this span rather than get one of its own."""
        token = ATTEMPT_OF.set(self)
        try:
            yield
        finally:
            ATTEMPT_OF.reset(token)

    def resumed(self, code: str, output_tokens: int) -> None:
        """Note that an attempt ended with a status code after so many output tokens, and another one follows."""
        self._resumed += 1
        for span in self._unended:
            span.add_event("qwire.resume", {"rpc.status_code": code, "gen_ai.usage.output_tokens": output_tokens})
            span.set_attribute("qwire.resume.count", self._resumed)

    def finish(self, code: str) -> None:
        """End the span with the name of a status code. Only the first call counts."""
        try:
            span = self._unended.pop()
        except IndexError:
            return
        span.set_attribute("rpc.status_code", code)
        if code != "OK":
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _of_target(target: str | None) -> Attributes:
    if not target:
        return {}
    address = target.removeprefix("dns:")
    if address.startswith("//"):
        address = address[2:].partition("/")[2]
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None:
        return {"server.address": target}
    return {"server.address": found[1].strip("[]"), "server.port": int(found[2])}


def _of_request(request: object) -> Attributes:
    if not isinstance(request, generate_pb2.GenerateRequest | generate_pb2.StreamGenerateRequest):
        return {}
    spec = request.spec
    attributes: Attributes = {
        "gen_ai.operation.name": "chat" if spec.WhichOneof("input") == "chat" else "text_completion",
        "gen_ai.provider.name": "qwire",
    }
    if spec.model:
        attributes["gen_ai.request.model"] = spec.model
    if isinstance(request, generate_pb2.StreamGenerateRequest):
        attributes["gen_ai.request.stream"] = True
    for attribute, part, field in _OPTIONS:
        options: Message = getattr(spec, part)
        if options.HasField(field):
            attributes[attribute] = getattr(options, field)
    return attributes
