"""What a call can fail with, and whose fault it is.

QwireError
├── InvalidRequest             the caller's: a field must change; `.violations` names it
│   ├── ContextLengthExceeded      prompt and output do not fit the model's context
│   └── Unsupported                the model cannot do what a field asks for
├── NotFound                   the caller's: there is no such batch job, or it has no such items; see `.reason`
│   ├── ModelNotFound              no such model is served
│   └── AdapterNotFound            the model has no such adapter
├── Conflict                   the caller's: a batch job is not what the call takes it for; see `.reason`
├── AdapterUnusable            the operator's: the adapter's files do not fit the model, or are damaged
├── LimitExceeded              the caller's: more than the server has in all; the same call cannot succeed later
├── Overloaded                 nobody's: the server is full; the same call may succeed after `.retry_after_s`
├── DeadlineExceeded           the caller's clock ran out
├── Cancelled                  the caller's wish: the stream's `cancel()`, or `cancel(generation_id)` from elsewhere
├── Unavailable                the operator's: not reachable, not ready, or draining; see `.retry_after_s`
├── ModelChanged               the operator's: the model was replaced while a stream was interrupted
├── ServerError                the server's, or something's between here and there
└── StreamBroken               the server's: a stream that does not keep its contract
    └── StreamTruncated            it ended well, but without its last event: output is missing

A task that is cancelled by asyncio gets asyncio's own CancelledError, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:  # it raises these errors
    from qwire.client.resume_point import ResumePoint


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is at fault.

    Attributes:
        field: Its path from the request message, such as `spec.sampling.top_p`.
        description: What is wrong with it and what is allowed.
    """

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class QwireError(Exception):
    """Base of everything that this package raises on purpose.

    Attributes:
        message: What happened, one sentence.
        code: The gRPC status of the call; None where the client found the fault itself in an OK stream.
        reason: The server's word for it, such as `OVERLOADED` (see `GenerateService`); empty when it gave none, as when
            the server was never reached.
        metadata: Facts that came with the reason.
        retry_after_s: Seconds after which another try may succeed; None = the server gave no hint.
        generation_id: The generation that failed, for the operator's logs; empty = none had started, as far as known.
        resume_point: Where another call can go on with a stream that broke, see `Client.stream`; None = nowhere.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        generation_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.generation_id = generation_id
        self.resume_point: ResumePoint | None = None


class InvalidRequest(QwireError):
    """A field of the request must change. Raised by the client itself where a value cannot even be sent.

    Attributes:
        violations: The fields at fault; empty only if an intermediary refused the call without naming one.
    """

    def __init__(
        self,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        code: grpc.StatusCode | None = grpc.StatusCode.INVALID_ARGUMENT,
        reason: str = "INVALID_FIELD",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        generation_id: str = "",
    ) -> None:
        super().__init__(
            message,
            code=code,
            reason=reason,
            metadata=metadata,
            retry_after_s=retry_after_s,
            generation_id=generation_id,
        )
        self.violations = violations

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """Return the error of a single field."""
        violation = FieldViolation(field, description)
        return cls(str(violation), violations=(violation,))


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output do not fit the model's context: shorten the prompt or ask for fewer output tokens."""


class Unsupported(InvalidRequest):
    """The model cannot do what a field asks for: see `Model.capabilities`."""


class NotFound(QwireError):
    """There is nothing of this id: a batch job (reason JOB_NOT_FOUND), or items of it (ITEMS_NOT_FOUND)."""


class ModelNotFound(NotFound):
    """No model of this id is served: see `models()`."""


class AdapterNotFound(NotFound):
    """The model has no adapter of this id: see `adapters()`."""


class Conflict(QwireError):
    """A batch job is not, or not any more, what the call takes it for.

    Reasons: JOB_NOT_OPEN, JOB_NOT_ENDED, SEAL_MISMATCH, CHUNK_CONFLICT, REQUEST_CONFLICT, ITEM_ID_TAKEN.
    """


class AdapterUnusable(QwireError):
    """The adapter cannot be applied to the model until its files change; the message says why."""


class LimitExceeded(QwireError):
    """The call alone exceeds a limit of the server or the channel: reason CAPACITY or MESSAGE_TOO_LARGE."""


class Overloaded(QwireError):
    """The server is full: try again after `retry_after_s`."""


class DeadlineExceeded(QwireError):
    """The time allowed for the call ran out."""


class Cancelled(QwireError):
    """The call was cancelled, by its own stream's `cancel()` or by its generation id."""


class Unavailable(QwireError):
    """The server cannot be reached, is not ready, or drains. What `RetryOptions` and `ResumeOptions` allow is spent."""


class ModelChanged(QwireError):
    """A broken stream cannot be gone on with: the server has another revision of its model now."""


class ServerError(QwireError):
    """The server failed, or answered with a status that the contract does not name."""


class StreamBroken(QwireError):
    """A stream broke its contract: a gap in its sequence, an event out of order, or one this client does not know."""


class StreamTruncated(StreamBroken):
    """A stream ended with status OK but without its last event. What came of it must not be taken for the whole."""
