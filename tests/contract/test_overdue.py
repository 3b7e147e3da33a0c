"""A call whose deadline has passed ends without a status: its caller knows, and gRPC loses memory over what it cannot
send (grpc/grpc#43360)."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest

from qwire.engine.errors import DeadlineExceeded
from qwire.rpc.config import ServerConfig
from qwire.rpc.guard import CallGuard
from qwire.rpc.open_calls import OpenCalls

METHOD = "/qwire.v1.GenerateService/Generate"


class FakeContext:
    """Of a call with so much time left when it began, and none when it ends; None = no deadline."""

    def __init__(self, *left_s: float | None) -> None:
        self._left_s = list(left_s)
        self.aborted: list[grpc.StatusCode] = []

    def time_remaining(self) -> float | None:
        return self._left_s.pop(0) if len(self._left_s) > 1 else self._left_s[0]

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def set_trailing_metadata(self, trailers: object) -> None:
        pass

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: grpc.StatusCode, *_: object) -> None:
        self.aborted.append(code)
        raise grpc.aio.AbortError


@pytest.mark.parametrize(
    ("context", "raised", "aborted"),
    [
        (FakeContext(5.0, 0.0), asyncio.CancelledError, []),
        (FakeContext(5.0, 0.5), grpc.aio.AbortError, [grpc.StatusCode.DEADLINE_EXCEEDED]),
        (FakeContext(None), grpc.aio.AbortError, [grpc.StatusCode.DEADLINE_EXCEEDED]),
    ],
    ids=["overdue", "in time", "the server's own deadline"],
)
async def test_a_status_is_sent_only_to_whom_it_reaches(
    context: FakeContext, raised: type[BaseException], aborted: list[grpc.StatusCode]
):
    async def overdue(*_: object) -> None:
        raise DeadlineExceeded

    async def known(_: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(overdue)

    guard = CallGuard(ServerConfig(), OpenCalls())
    details: Any = type("Details", (), {"method": METHOD, "invocation_metadata": ()})
    handler = await guard.intercept_service(known, details)
    assert handler is not None
    with pytest.raises(raised):
        await cast("Any", handler).unary_unary(b"", context)
    assert context.aborted == aborted
