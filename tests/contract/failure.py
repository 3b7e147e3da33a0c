"""How a call failed, with its details read as any client would read them."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status


@dataclass(frozen=True, slots=True)
class Failure:
    """A status, unpacked."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str]
    fields: dict[str, str]
    """Path of each field at fault -> its reason."""
    retry_after_s: float | None
    pushback_ms: int | None = None

    @classmethod
    def of_status(cls, status: Status) -> Failure:
        """Unpack the status of a batch item."""
        info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
        unpacked = [detail.Unpack(one) for detail in status.details for one in (info, request, retry)]
        assert sum(unpacked) == len(status.details), "a detail of an unknown type"
        assert info.domain == "qwire.v1", f"no ErrorInfo in {status.message!r}"
        return cls(
            code=next(code.name for code in grpc.StatusCode if code.value[0] == status.code),
            reason=info.reason,
            message=status.message,
            metadata=dict(info.metadata),
            fields={violation.field: violation.reason for violation in request.field_violations},
            retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        )

    @classmethod
    def of_call(cls, error: grpc.aio.AioRpcError) -> Failure:
        """Unpack the status that a call ended with."""
        trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
        assert "grpc-status-details-bin" in trailers, f"{error.code()} without details: {error.details()}"
        status = Status.FromString(trailers["grpc-status-details-bin"])
        failure = cls.of_status(status)
        assert failure.code == error.code().name
        assert failure.message == error.details()
        pushback = trailers.get("grpc-retry-pushback-ms")
        return cls(
            failure.code,
            failure.reason,
            failure.message,
            failure.metadata,
            failure.fields,
            failure.retry_after_s,
            None if pushback is None else int(pushback),
        )


async def failure_of(call: Awaitable[object]) -> Failure:
    """Await a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Failure.of_call(caught.value)


async def collect(stream: Any) -> list[Any]:
    """Return everything of a stream that is left."""
    messages: list[Any] = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages
