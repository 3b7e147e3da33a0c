"""Calls with one answer, for the asyncio client; and how to tell a cancelled call from a cancelled task."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import grpc
import grpc.aio

from qwire.client.repetition import closed
from qwire.client.status import error_from_rpc

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


async def ask(
    method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT, timeout_s: float | None
) -> ResponseT:
    """Make a call once.

    Raises:
        QwireError: It failed.
    """
    call = method(request, timeout=timeout_s)
    try:
        return await call
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error
    except asyncio.CancelledError:
        call.cancel()
        if task_is_cancelled():
            raise
        raise closed() from None


def task_is_cancelled() -> bool:
    """Whether someone cancels the task that runs.

    gRPC raises `asyncio.CancelledError` for a call that was cancelled, by itself or with its channel, as well.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
