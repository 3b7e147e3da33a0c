"""What can go wrong between the wire and the text, and whose fault it is.

RpcError
├── InvalidFields        the caller's: fields of a message are out of range or not supported
├── MalformedMessage     the caller's: the bytes are not a message of this type
├── MessageTooLarge      the caller's: the message is beyond the server's limit
├── SlowReader           the caller's: it does not take what is sent to it
├── ResponseTooLarge     the caller's: what was asked for is beyond the server's limit of an answer
├── ModelNotFound        the caller's: no such model is served
├── ServiceNotFound      the caller's: no health is known of this name (grpc.health.v1)
├── ItemIdTaken          the caller's: the job has an item of this id already
├── ModelNotReady        the operator's: the model is still being loaded; another try may succeed
└── Draining             the operator's: this server is going away; another one may answer

What goes wrong further in is told by `qwire.engine.errors`. `qwire.rpc.status` turns both into gRPC statuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

RETRY_AFTER_S = 1.0
"""What a caller is told to wait where nothing better is known, seconds."""


class RpcError(Exception):
    """Base of everything that this room raises on purpose."""


class FieldReason(Enum):
    """Why a field is refused. The values are those of ErrorInfo.reason."""

    INVALID = "INVALID_FIELD"
    """Missing or out of range."""
    UNSUPPORTED = "UNSUPPORTED"
    """It asks for something that the model or this server does not do."""
    CONTEXT_LENGTH = "CONTEXT_LENGTH"
    """The model's context cannot hold it."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field at fault.

    Attributes:
        field: Its path from the request message, such as `items[2].spec.sampling.top_p`.
        description: What is wrong and what is allowed, one sentence, without the value that was sent.
        reason: Why it is refused.
    """

    field: str
    description: str
    reason: FieldReason = FieldReason.INVALID


class InvalidFields(RpcError):
    """Fields of a message are out of range or not supported.

    Args:
        violations: Every field at fault, at least one.
    """

    def __init__(self, violations: tuple[FieldViolation, ...]) -> None:
        super().__init__(violations)
        self.violations = violations


class MalformedMessage(RpcError):
    """The request's bytes are not a message of the method's type."""


class MessageTooLarge(RpcError):
    """The request's message is beyond the server's limit.

    Args:
        size_bytes: Its size.
        limit_bytes: The limit.
    """

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class SlowReader(RpcError):
    """The caller did not take a message of its stream in time; its generation was ended.

    Args:
        stalled_s: How long the message waited, seconds.
    """

    def __init__(self, stalled_s: float) -> None:
        super().__init__(stalled_s)
        self.stalled_s = stalled_s


class ResponseTooLarge(RpcError):
    """What was asked for does not fit in one message.

    Args:
        limit_bytes: The limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes


class ModelNotFound(RpcError):
    """No such model is served.

    Args:
        model_id: The id that was asked for.
    """

    def __init__(self, model_id: str) -> None:
        super().__init__(model_id)
        self.model_id = model_id


class ServiceNotFound(RpcError):
    """Neither a service nor a model of this name has a health."""


class ItemIdTaken(RpcError):
    """The batch job has an item of this id already."""


class ModelNotReady(RpcError):
    """The model is still being loaded.

    Args:
        retry_after_s: When another try is worth it, seconds, > 0.
    """

    def __init__(self, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class Draining(RpcError):
    """This server finishes its open calls and takes no new ones.

    Args:
        retry_after_s: When another try is worth it, seconds, > 0.
    """

    def __init__(self, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s
