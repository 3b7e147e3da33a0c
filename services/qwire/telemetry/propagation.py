"""W3C trace context to and from the two text fields that requests carry between processes."""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_W3C = TraceContextTextMapPropagator()


class TraceFields(NamedTuple):
    """A trace context as text, as `Envelope` holds it; None = none."""

    traceparent: str | None
    tracestate: str | None


def inject(context: Context | None = None) -> TraceFields:
    """Return a context's span as text.

    Args:
        context: Where to look for the span; None = the current context.
    """
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context=context)
    return TraceFields(carrier.get(TRACEPARENT), carrier.get(TRACESTATE))


def extract(traceparent: str | None, tracestate: str | None = None) -> Context:
    """Return a context whose current span is the one that the text names; an empty one where it names none.

    Malformed text counts as none, as the W3C recommendation demands.
    """
    if traceparent is None:
        return Context()
    carrier = {TRACEPARENT: traceparent}
    if tracestate is not None:
        carrier[TRACESTATE] = tracestate
    return _W3C.extract(carrier, context=Context())
