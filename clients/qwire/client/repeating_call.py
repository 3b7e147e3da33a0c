"""Calls with one answer that are made again when their server is lost, for the blocking client."""

from __future__ import annotations

import threading
from typing import TypeVar

import grpc

from qwire.client.options import ResumeOptions
from qwire.client.repetition import Repetition, closed
from qwire.client.status import error_from_rpc

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class RepeatingCalls:
    """Makes such calls, from any thread.

    Args:
        options: For how long; None = each is made once.
    """

    def __init__(self, options: ResumeOptions | None) -> None:
        self._options = options
        self._closing = threading.Event()
        self._answered = False

    def make(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
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
            try:
                response = method(request, timeout=repetition.left_s)
            except grpc.RpcError as error:
                if self._closing.is_set():
                    raise error_from_rpc(error) from error
                self.pause(repetition.wait_s(error), error)
            else:
                self._answered = True
                return response

    def pause(self, seconds: float, error: grpc.RpcError) -> None:
        """Wait before another attempt after an error.

        Raises:
            Cancelled: The client was closed meanwhile.
        """
        if self._closing.wait(seconds):
            raise closed() from error

    def close(self) -> None:
        """Have those that wait for their next attempt end as Cancelled. Idempotent."""
        self._closing.set()
