"""Turns gRPC failures and google.rpc.Status into the typed errors of this package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from qwire.client.errors import (
    AdapterNotFound,
    AdapterUnusable,
    Cancelled,
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    LimitExceeded,
    ModelNotFound,
    NotFound,
    Overloaded,
    QwireError,
    ServerError,
    Unavailable,
    Unsupported,
)

_DETAILS_KEY = "grpc-status-details-bin"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_ERRORS: dict[grpc.StatusCode, type[QwireError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}
_REASONS: dict[str, type[QwireError]] = {
    "MODEL_NOT_FOUND": ModelNotFound,
    "ADAPTER_NOT_FOUND": AdapterNotFound,
    "ADAPTER_UNUSABLE": AdapterUnusable,
    "JOB_NOT_OPEN": Conflict,
    "JOB_NOT_ENDED": Conflict,
    "SEAL_MISMATCH": Conflict,
    "CHUNK_CONFLICT": Conflict,
    "REQUEST_CONFLICT": Conflict,
    "ITEM_ID_TAKEN": Conflict,
}
"""Where the code alone does not tell."""
_INVALID: dict[str, type[InvalidRequest]] = {"CONTEXT_LENGTH": ContextLengthExceeded, "UNSUPPORTED": Unsupported}


@dataclass(slots=True)
class _Details:
    """The google.rpc details that this client knows; others are for other clients."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    retry_after_s: float | None = None
    violations: tuple[FieldViolation, ...] = ()


def error_from_rpc(error: grpc.RpcError, generation_id: str = "") -> QwireError:
    """Return the typed error of a call that failed.

    Args:
        error: What the call raised.
        generation_id: The generation that the call had started; empty = none.
    """
    code, message = error.code(), error.details() or ""
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())  # None where none came
    for key, value in trailers:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break  # an intermediary mangled it: code and message still hold
            return _error(code, status.message or message, _read_details(status), generation_id)
    return _error(code, message, _Details(), generation_id)


def error_from_status(status: status_pb2.Status) -> QwireError:
    """Return the typed error of one batch item."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, _read_details(status), "")


def _error(code: grpc.StatusCode, message: str, details: _Details, generation_id: str) -> QwireError:
    kind = _REASONS.get(details.reason) or _ERRORS.get(code, ServerError)
    if kind is DeadlineExceeded and not details.reason:
        message = "the time allowed for the call ran out"  # gRPC's own words tell of its internals
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        kind = LimitExceeded if details.retry_after_s is None else Overloaded
    if kind is InvalidRequest:
        return _INVALID.get(details.reason, InvalidRequest)(
            message,
            violations=details.violations,
            code=code,
            reason=details.reason,
            metadata=details.metadata,
            retry_after_s=details.retry_after_s,
            generation_id=generation_id or details.metadata.get("generation_id", ""),
        )
    return kind(
        message or code.name,
        code=code,
        reason=details.reason,
        metadata=details.metadata,
        retry_after_s=details.retry_after_s,
        generation_id=generation_id or details.metadata.get("generation_id", ""),
    )


def _read_details(status: status_pb2.Status) -> _Details:
    details = _Details()
    for packed in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            details.reason, details.metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(bad):
            details.violations = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
        elif packed.Unpack(retry):
            details.retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return details
