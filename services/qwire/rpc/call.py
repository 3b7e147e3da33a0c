"""What is known of the call that is being answered: when it came, until when it may last, and what it is named."""

from __future__ import annotations

import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field

from qwire.engine.request import Envelope
from qwire.telemetry.propagation import TraceFields

CURRENT_CALL: ContextVar[Call] = ContextVar("current_call")
"""The call that this task answers; set for every call of `qwire.v1`."""


@dataclass(slots=True)
class StreamPosition:
    """How much of its generation a stream has sent, so that its caller can go on elsewhere where it breaks.

    Attributes:
        output_tokens: Output tokens told so far, those included that the request came with.
        last_sequence: The number of the last event.
    """

    output_tokens: int = 0
    last_sequence: int = 0

    def as_metadata(self) -> dict[str, str]:
        """Return it as ErrorInfo.metadata; empty where there is nothing to go on from."""
        if not self.output_tokens:
            return {}
        return {"output_tokens": str(self.output_tokens), "last_sequence": str(self.last_sequence)}


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        method: Its full name, such as `/qwire.v1.GenerateService/Generate`.
        arrived_ns: When it arrived, by `time.monotonic_ns`.
        deadline_unix_ns: When it ends at the latest, nanoseconds since the epoch; None = never.
        generation_id: Names its generation, where it has exactly one.
        trace: Trace context of the server's span, or of the caller's where the server does not trace.
        tenant: Who asks; empty = nobody in particular.
        position: Where its stream is, where it is one of a generation.
    """

    method: str
    arrived_ns: int
    deadline_unix_ns: int | None
    generation_id: str
    trace: TraceFields
    tenant: str = ""
    position: StreamPosition = field(default_factory=StreamPosition)

    def envelope(self, generation_id: str) -> Envelope:
        """Return what travels with a generation of this call."""
        return Envelope(
            request_id=generation_id,
            deadline_unix_ns=self.deadline_unix_ns,
            traceparent=self.trace.traceparent,
            tracestate=self.trace.tracestate,
        )

    def elapsed_ns(self) -> int:
        """Return the time since the call arrived, nanoseconds."""
        return time.monotonic_ns() - self.arrived_ns


def new_generation_id() -> str:
    """Return a name for a generation, unique for all time."""
    return uuid.uuid4().hex
