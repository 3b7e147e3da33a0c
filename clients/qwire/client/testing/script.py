"""What a fake server says: answers, failures, and streams that break their contract."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from qwire.client.tool import ToolCall

_DOMAIN = "qwire.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call that fails with google.rpc details, as a real server's calls do."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    """The status."""

    reason: str = "UNAVAILABLE"
    """ErrorInfo.reason. Empty = no details at all, as from an intermediary."""

    message: str = "scripted failure"
    """The status message."""

    metadata: dict[str, str] = field(default_factory=dict[str, str])
    """ErrorInfo.metadata."""

    violations: tuple[tuple[str, str], ...] = ()
    """BadRequest field violations: field and description."""

    retry_after_s: float | None = None
    """RetryInfo.retry_delay, seconds. None = no RetryInfo."""

    pushback_ms: int | None = None
    """`grpc-retry-pushback-ms`: when gRPC itself may try again; -1 = not at all. None = as its own policy says; not at
    all where CANCELLED has a reason."""

    def status(self) -> status_pb2.Status:
        """Return the whole status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.reason:
            info = error_details_pb2.ErrorInfo(reason=self.reason, domain=_DOMAIN, metadata=self.metadata)
            status.details.add().Pack(info)
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, description in self.violations:
                bad.field_violations.add(field=name, description=description)
            status.details.add().Pack(bad)
        if self.retry_after_s is not None:
            delay = Duration(seconds=int(self.retry_after_s), nanos=round(self.retry_after_s % 1 * 1e9))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """End the call with it."""
        trailers: list[tuple[str, str | bytes]] = []
        if self.reason:
            trailers.append(("grpc-status-details-bin", self.status().SerializeToString()))
        pushback_ms = self.pushback_ms
        if pushback_ms is None and self.reason and self.code is grpc.StatusCode.CANCELLED:
            pushback_ms = -1
        if pushback_ms is not None:
            trailers.append(("grpc-retry-pushback-ms", str(pushback_ms)))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(self.code, self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One generation's answer, and how it comes."""

    text: str = ""
    """The text, streamed word by word."""

    reasoning: str = ""
    """Thinking that precedes it."""

    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that follow it, where `max_output_tokens` does not cut it short; the reason is TOOL_CALLS then."""

    delay_s: float = 0.0
    """Seconds before each delta; before the end of a unary call, that many times the number of deltas."""

    failure: Failure | None = None
    """Fail with this after `failure_after` deltas. None = the answer ends well."""

    failure_after: int = 0
    """Deltas before the failure. A unary call fails without an answer."""

    drop_after: tuple[int, ...] = ()
    """Break the stream after so many deltas in all, at least 1, as a lost connection does: UNAVAILABLE without details.
    A client that resumes is given the rest, up to the next of these. Calls that are no stream do not break."""

    truncate_after: int | None = None
    """End the stream with status OK, but without `finished`, after so many deltas: a broken server. None = do not."""

    skip_sequence_after: int | None = None
    """Leave out a sequence number after so many deltas: a broken server. None = do not."""

    def __post_init__(self) -> None:
        """Check the breaks.

        Raises:
            ValueError: A stream that broke before its first delta would be asked for anew, and break for ever.
        """
        if any(position < 1 for position in self.drop_after):
            raise ValueError(f"drop_after must be 1 or more, got {self.drop_after}")


def words(text: str) -> list[str]:
    """Split a text into words with the space around them; joined, they are the text again."""
    return re.findall(r"\s*\S+(?:\s+$)?|\s+$", text)
