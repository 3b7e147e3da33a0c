"""gRPC statuses with google.rpc details, from our errors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from qwire.rpc import errors as rpc
from qwire.rpc.fault import INTERNAL, TABLE

DOMAIN = "qwire.v1"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

Trailers = tuple[tuple[str, str | bytes], ...]


def is_mapped(error: BaseException) -> bool:
    """Whether the table knows the error; one that it does not know is a defect of the server and worth a log line."""
    return any(base in TABLE for base in type(error).__mro__)


def status_of(
    error: BaseException, *, generation_id: str = "", position: Mapping[str, str] = MappingProxyType({})
) -> Status:
    """Return the status that an error ends its call, or its batch item, with.

    Args:
        error: What was raised. Its text never reaches the status unless it is one of ours, made for callers.
        generation_id: The generation that failed; empty = none.
        position: Where its stream was, told where another server may go on with it; empty = nowhere.
    """
    fault = next((TABLE[base](error) for base in type(error).__mro__ if base in TABLE), INTERNAL)
    metadata = dict(fault.metadata)
    if fault.code is grpc.StatusCode.UNAVAILABLE:
        metadata |= position
    if generation_id:
        metadata["generation_id"] = generation_id
    details: list[Message] = [ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=metadata)]
    if fault.violations:
        details.append(BadRequest(field_violations=[_violation(one) for one in fault.violations]))
    if fault.retry_after_s is not None:
        details.append(RetryInfo(retry_delay=_duration(fault.retry_after_s)))
    status = Status(code=fault.code.value[0], message=fault.message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def trailers_of(status: Status) -> Trailers:
    """Return the trailing metadata that carries a status's details, and when gRPC's own retries may try again.

    Never where it was cancelled on purpose: retries of CANCELLED are for calls that a server drops as it shuts down.
    """
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if code_of(status) is grpc.StatusCode.CANCELLED:
        trailers.append((PUSHBACK_KEY, "-1"))
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            delay = retry.retry_delay
            trailers.append((PUSHBACK_KEY, str(delay.seconds * 1000 + delay.nanos // 1_000_000)))
    return tuple(trailers)


def code_of(status: Status) -> grpc.StatusCode:
    """Return the gRPC code of a status."""
    return _CODES[status.code]


_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _violation(violation: rpc.FieldViolation) -> BadRequest.FieldViolation:
    return BadRequest.FieldViolation(
        field=violation.field, description=violation.description, reason=violation.reason.value
    )


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1_000_000_000))
