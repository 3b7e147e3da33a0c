"""Calls with one answer that are made again when their server is lost, for the asyncio client."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import grpc
import grpc.aio

from qwire.client.aio_call import task_is_cancelled
from qwire.client.options import ResumeOptions
from qwire.client.repetition import Repetition, closed
from qwire.client.status import error_from_rpc

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class AsyncRepeatingCalls:
    """Makes such calls.

    Args:
        options: For how long; None = each is made once.
    """

    def __init__(self, options: ResumeOptions | None) -> None:
        self._options = options
        self._closing = asyncio.Event()
        self._answered = False

    async def make(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout_s: float | None,
    ) -> ResponseT:
        """Return the answer.

        Args:
            method: What to call.
            request: What with.
            timeout_s: How long it may take in all; None = no limit.

        Raises:
            QwireError: There is none.
        """
        repetition = Repetition(self._options, timeout_s, answered=self._answered)
        while True:
            call = method(request, timeout=repetition.left_s)
            try:
                response = await call
            except grpc.RpcError as error:
                if self._closing.is_set():
                    raise error_from_rpc(error) from error
                await self.pause(repetition.wait_s(error), error)
            except asyncio.CancelledError:
                call.cancel()
                if task_is_cancelled():
                    raise
                raise closed() from None
            else:
                self._answered = True
                return response

    async def pause(self, seconds: float, error: grpc.RpcError) -> None:
        """Wait before another attempt after an error.

        Raises:
            Cancelled: The client was closed meanwhile.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return
        raise closed() from error

    def close(self) -> None:
        """Have those that wait for their next attempt end as Cancelled. Idempotent."""
        self._closing.set()
