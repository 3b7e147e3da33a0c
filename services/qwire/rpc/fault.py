"""The one table from our errors to what callers are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from qwire.batch import errors as batch
from qwire.engine import errors as engine
from qwire.rpc import errors as rpc

MAX_VIOLATIONS = 16
"""Field violations told of in one status: trailers have to stay below 8 KiB. The message says how many there are."""

_MAX_MODEL_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Fault:
    """What one error becomes on the wire.

    Attributes:
        code: The gRPC code.
        reason: ErrorInfo.reason.
        message: One sentence.
        violations: BadRequest's fields; empty = it has none.
        retry_after_s: RetryInfo's delay; None = it has none.
        metadata: ErrorInfo.metadata.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    violations: tuple[rpc.FieldViolation, ...] = ()
    retry_after_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def _invalid_fields(error: rpc.InvalidFields) -> Fault:
    violations = error.violations
    reasons = {violation.reason for violation in violations}
    reason = reasons.pop() if len(reasons) == 1 else rpc.FieldReason.INVALID
    first, *others = violations
    told = f"{len(violations)} fields are at fault" if others else _sentence(first)
    if len(violations) > MAX_VIOLATIONS:
        told = f"{told}, the first {MAX_VIOLATIONS} are listed"
    return Fault(grpc.StatusCode.INVALID_ARGUMENT, reason.value, told, violations[:MAX_VIOLATIONS])


def _invalid_request(reason: rpc.FieldReason) -> Callable[[engine.InvalidRequest], Fault]:
    def fault(error: engine.InvalidRequest) -> Fault:
        return _invalid_fields(rpc.InvalidFields((rpc.FieldViolation(error.field, error.description, reason),)))

    return fault


def _sentence(violation: rpc.FieldViolation) -> str:
    return f"{violation.field}: {violation.description}"


def _model_not_found(error: rpc.ModelNotFound) -> Fault:
    # An id of any length may have been asked for; only a plausible one is worth its place in the trailers.
    metadata = {"model": error.model_id} if len(error.model_id) <= _MAX_MODEL_CHARACTERS else {}
    return Fault(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no such model is served", metadata=metadata)


def _adapter_not_found(error: engine.AdapterNotFound) -> Fault:
    message = "the model has no such adapter"
    return Fault(grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", message, metadata={"adapter": error.adapter_id})


def _adapter_unusable(error: engine.AdapterUnusable) -> Fault:
    message = f"the adapter cannot be applied: {error.description}"
    metadata = {"adapter": error.adapter_id}
    return Fault(grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_UNUSABLE", message, metadata=metadata)


def _message_too_large(error: rpc.MessageTooLarge) -> Fault:
    return Fault(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "MESSAGE_TOO_LARGE",
        f"the message has {error.size_bytes} bytes, {error.limit_bytes} are allowed",
        metadata={"size_bytes": str(error.size_bytes), "limit_bytes": str(error.limit_bytes)},
    )


def _response_too_large(error: rpc.ResponseTooLarge) -> Fault:
    return Fault(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "MESSAGE_TOO_LARGE",
        f"the answer has more than the {error.limit_bytes} bytes that are allowed; a stream has no such limit",
        metadata={"limit_bytes": str(error.limit_bytes)},
    )


def _capacity(error: engine.CapacityExceeded) -> Fault:
    return Fault(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "CAPACITY",
        f"prompt and output need {error.needed_tokens} tokens of KV cache; the model has {error.capacity_tokens}",
        metadata={"needed_tokens": str(error.needed_tokens), "capacity_tokens": str(error.capacity_tokens)},
    )


def _slow_reader(error: rpc.SlowReader) -> Fault:
    return Fault(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SLOW_READER",
        f"the caller took no message for {error.stalled_s:g} s",
        metadata={"stalled_ms": str(round(error.stalled_s * 1000))},
    )


def _unattainable(error: engine.DeadlineUnattainable) -> Fault:
    return Fault(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_UNATTAINABLE",
        f"a first token takes {error.estimate_s:.1f} s at least; {error.left_s:.1f} s were left",
        retry_after_s=error.retry_after_s,
        metadata={
            "estimate_ms": str(round(error.estimate_s * 1000)),
            "remaining_ms": str(round(error.left_s * 1000)),
        },
    )


def _seal_mismatch(error: batch.SealMismatch) -> Fault:
    return Fault(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SEAL_MISMATCH",
        f"the job holds {error.chunks} chunks with {error.items} items, which is not what the seal says",
        metadata={"chunks": str(error.chunks), "items": str(error.items), "digest": error.digest.hex()},
    )


def _items_not_found(error: batch.ItemsNotFound) -> Fault:
    metadata = {"items": str(len(error.item_ids))}
    return Fault(
        grpc.StatusCode.NOT_FOUND, "ITEMS_NOT_FOUND", "the job has no items of some of these ids", metadata=metadata
    )


def _fixed(code: grpc.StatusCode, reason: str, message: str) -> Callable[[BaseException], Fault]:
    fault = Fault(code, reason, message)
    return lambda _: fault


def _retryable(code: grpc.StatusCode, reason: str, message: str) -> Callable[[Any], Fault]:
    return lambda error: Fault(code, reason, message, retry_after_s=error.retry_after_s or rpc.RETRY_AFTER_S)


_Code = grpc.StatusCode
INTERNAL = Fault(_Code.INTERNAL, "INTERNAL", "internal error")
_DEADLINE = _fixed(_Code.DEADLINE_EXCEEDED, "DEADLINE", "the deadline passed before the generation ended")

TABLE: Mapping[type[BaseException], Callable[[Any], Fault]] = {
    rpc.InvalidFields: _invalid_fields,
    rpc.MalformedMessage: _fixed(
        _Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "the bytes are not a message of this method's request type"
    ),
    rpc.MessageTooLarge: _message_too_large,
    rpc.SlowReader: _slow_reader,
    rpc.ResponseTooLarge: _response_too_large,
    rpc.ModelNotFound: _model_not_found,
    rpc.ServiceNotFound: _fixed(_Code.NOT_FOUND, "SERVICE_NOT_FOUND", "no such service"),
    rpc.ModelNotReady: _retryable(_Code.UNAVAILABLE, "UNAVAILABLE", "the model is not ready yet"),
    rpc.Draining: _retryable(_Code.UNAVAILABLE, "DRAINING", "this server is draining"),
    rpc.ItemIdTaken: _fixed(_Code.ALREADY_EXISTS, "ITEM_ID_TAKEN", "the job has an item of this id already"),
    batch.JobNotFound: _fixed(_Code.NOT_FOUND, "JOB_NOT_FOUND", "no such batch job"),
    batch.ItemsNotFound: _items_not_found,
    batch.RequestConflict: _fixed(
        _Code.ALREADY_EXISTS, "REQUEST_CONFLICT", "another request with this request_id created a job"
    ),
    batch.ChunkConflict: _fixed(
        _Code.ALREADY_EXISTS, "CHUNK_CONFLICT", "other items were appended under this chunk_index"
    ),
    batch.JobNotOpen: _fixed(_Code.FAILED_PRECONDITION, "JOB_NOT_OPEN", "the job is sealed or has ended"),
    batch.JobNotEnded: _fixed(_Code.FAILED_PRECONDITION, "JOB_NOT_ENDED", "items of the job have no outcome yet"),
    batch.SealMismatch: _seal_mismatch,
    batch.StoreUnavailable: lambda _: Fault(
        _Code.UNAVAILABLE, "UNAVAILABLE", "the job store cannot be reached", retry_after_s=rpc.RETRY_AFTER_S
    ),
    engine.ContextLengthExceeded: _invalid_request(rpc.FieldReason.CONTEXT_LENGTH),
    engine.InvalidRequest: _invalid_request(rpc.FieldReason.INVALID),
    engine.AdapterNotFound: _adapter_not_found,
    engine.AdapterUnusable: _adapter_unusable,
    engine.CapacityExceeded: _capacity,
    engine.QueueFull: _retryable(
        _Code.RESOURCE_EXHAUSTED, "OVERLOADED", "the model's waiting queue has no place for this call"
    ),
    engine.DeadlineUnattainable: _unattainable,
    engine.DeadlineExceeded: _DEADLINE,
    TimeoutError: _DEADLINE,
    engine.GenerationCancelled: _fixed(_Code.CANCELLED, "CANCELLED", "the generation was cancelled by its id"),
    engine.NumericalError: _fixed(_Code.INTERNAL, "NUMERICAL", "the model's logits were not finite"),
    engine.ReplicasLost: _fixed(
        _Code.INTERNAL, "REPLICAS_LOST", "the generation has lost as many replicas as one generation may"
    ),
    engine.EngineUnavailable: _retryable(_Code.UNAVAILABLE, "UNAVAILABLE", "the model cannot answer at the moment"),
}
