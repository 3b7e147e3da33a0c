"""A streaming call that goes on elsewhere when it breaks, for the asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from qwire.client.errors import DeadlineExceeded
from qwire.client.generation_reader import GenerationReader
from qwire.client.interruption import Persistence, deadline_in, left_s, may_be_mended
from qwire.client.options import ResumeOptions
from qwire.client.tracing import CallTrace
from qwire.v1 import generate_pb2

Request = generate_pb2.StreamGenerateRequest
Response = generate_pb2.StreamGenerateResponse
Call = grpc.aio.UnaryStreamCall[Any, Response]


class AsyncResumingCall:
    """Gives the responses of one generation, of as many calls as it takes.

    Args:
        start: Sends a request, with a timeout in seconds; None = no limit.
        request: The request.
        reader: Reads the responses; knows what is missing after a break.
        timeout_s: How long it may take in all; None = no limit.
        options: How long to try to go on. None = a break ends it.
        trace: The trace of it all.
    """

    def __init__(
        self,
        start: Callable[[Request, float | None], Call],
        request: Request,
        reader: GenerationReader,
        *,
        timeout_s: float | None,
        options: ResumeOptions | None,
        trace: CallTrace,
    ) -> None:
        deadline = deadline_in(timeout_s)
        self._start = start
        self._deadline = deadline
        self._request = request
        self._reader = reader
        self._persistence = Persistence(reader, options, deadline)
        self._trace = trace
        self._cancelled = asyncio.Event()
        self._call: Call | None = None
        self._attempt(request)

    async def read(self) -> object:
        """Return the next response, or `grpc.aio.EOF`."""
        while True:
            call = self._call or self._attempt(self._reader.rest(self._request))
            try:
                response = await call.read()
            except grpc.RpcError as error:
                if not (self._reader.finished and may_be_mended(error)):
                    await self._wait(error)
                    continue
                response = grpc.aio.EOF  # all of it has come: only the status was lost
            if response is grpc.aio.EOF:
                if self._cancelled.is_set() and not self._reader.finished:
                    raise asyncio.CancelledError  # what gRPC makes of a cancelled call behind an interceptor
                self._trace.finish("OK")
            return response

    def __del__(self) -> None:
        self._finish()

    def cancel(self) -> None:
        """End it. Idempotent."""
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()
        self._finish()

    def _finish(self) -> None:
        self._trace.finish("OK" if self._reader.finished else "CANCELLED")

    def _attempt(self, request: Request) -> Call:
        if self._cancelled.is_set():
            raise asyncio.CancelledError  # as gRPC does for a call that `cancel` ended
        with self._trace.attempt():
            self._call = self._start(request, left_s(self._deadline))
        return self._call

    async def _wait(self, error: grpc.RpcError) -> None:
        """Wait until another attempt is worth it; raise where none is."""
        code = error.code().name
        try:
            wait_s = self._persistence.wait_s(error)
        except DeadlineExceeded:
            self._trace.finish("DEADLINE_EXCEEDED")
            raise
        except grpc.RpcError:
            self._trace.finish(code)
            raise
        self._call = None
        try:
            async with asyncio.timeout(wait_s):
                await self._cancelled.wait()
        except TimeoutError:
            self._trace.resumed(code, self._reader.output_tokens)
        else:
            raise asyncio.CancelledError
