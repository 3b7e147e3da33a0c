"""A streaming call that goes on elsewhere when it breaks, for the blocking client."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

from qwire.client.errors import Cancelled, DeadlineExceeded
from qwire.client.generation_reader import GenerationReader
from qwire.client.interruption import Persistence, deadline_in, left_s, may_be_mended
from qwire.client.options import ResumeOptions
from qwire.client.stream import StreamCall
from qwire.client.tracing import CallTrace
from qwire.v1 import generate_pb2

Request = generate_pb2.StreamGenerateRequest
Response = generate_pb2.StreamGenerateResponse


class ResumingCall:
    """Gives the responses of one generation, of as many calls as it takes. `cancel` is for any thread.

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
        start: Callable[[Request, float | None], StreamCall[Response]],
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
        self._cancelled = threading.Event()
        self._lock = threading.Lock()  # no call is started once it is cancelled
        self._call: StreamCall[Response] | None = None
        self._attempt(request)

    def __next__(self) -> Response:
        while True:
            call = self._call or self._attempt(self._reader.rest(self._request))
            try:
                return next(call)
            except StopIteration:
                self._trace.finish("OK")
                raise
            except grpc.RpcError as error:
                if self._reader.finished and may_be_mended(error):
                    self._trace.finish("OK")  # all of it has come: only the status was lost
                    raise StopIteration from None
                self._wait(error)

    def __del__(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End it. Idempotent."""
        with self._lock:
            self._cancelled.set()
            call = self._call
        if call is not None:
            call.cancel()
        self._trace.finish("OK" if self._reader.finished else "CANCELLED")

    def _attempt(self, request: Request) -> StreamCall[Response]:
        with self._lock:
            if self._cancelled.is_set():
                raise self._cancelled_error()
            with self._trace.attempt():
                self._call = self._start(request, left_s(self._deadline))
            return self._call

    def _wait(self, error: grpc.RpcError) -> None:
        """Wait until another attempt is worth it; raise where none is."""
        code = error.code().name
        if self._cancelled.is_set():
            raise error
        try:
            wait_s = self._persistence.wait_s(error)
        except DeadlineExceeded:
            self._trace.finish("DEADLINE_EXCEEDED")
            raise
        except grpc.RpcError:
            self._trace.finish(code)
            raise
        with self._lock:
            self._call = None
        if self._cancelled.wait(wait_s):
            raise self._cancelled_error() from error
        self._trace.resumed(code, self._reader.output_tokens)

    def _cancelled_error(self) -> Cancelled:
        return Cancelled(
            "cancelled by this client",
            code=grpc.StatusCode.CANCELLED,
            generation_id=self._reader.generation_id,
        )
