"""Streams of the asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import grpc
import grpc.aio

from qwire.client.aio_call import task_is_cancelled
from qwire.client.batch import BatchFinished, BatchResult
from qwire.client.errors import Cancelled, QwireError, StreamTruncated
from qwire.client.generation_reader import GenerationReader
from qwire.client.health import Health
from qwire.client.reader import BatchReader, HealthReader, Reader
from qwire.client.result import Channel, Delta, Generation, StreamEvent
from qwire.client.started import Started
from qwire.client.status import error_from_rpc
from qwire.v1 import batch_pb2, generate_pb2, health_pb2

ResponseT = TypeVar("ResponseT")
EventT = TypeVar("EventT")


class AsyncStreamCall(Protocol):
    """What this module needs of a gRPC call: its responses, and a way to end it."""

    async def read(self) -> object:
        """Wait for the next response; `grpc.aio.EOF` = there is none."""
        ...

    def cancel(self) -> object:
        """End the call."""
        ...


class AsyncEventStream(Generic[ResponseT, EventT]):
    """Iterates over the events of one call. Leaving the `async with` block, `cancel`, or dropping it, ends the call.

    Iteration raises the typed error of the call where it fails; what came before stays valid as what it is, a part.
    Cancelling the task that iterates ends the call too.
    """

    def __init__(self, call: AsyncStreamCall, reader: Reader[ResponseT, EventT]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._failure: QwireError | None = None
        self._cancelled = False

    def __del__(self) -> None:
        # gRPC does not end a call that nobody holds any more: since 1.83 it holds it itself (grpc/grpc#43462).
        # Whichever thread collects garbage may come here.
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._call.cancel)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventT:
        if self._failure is not None:
            raise self._failure
        try:
            while (response := await self._read()) is not grpc.aio.EOF:
                event = self._reader.read(cast("ResponseT", response))
                if event is not None:
                    return event
            self._end()
        except QwireError as error:
            self._failure = error
            self._call.cancel()
            raise
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the call: the server stops decoding within two steps. Iteration then raises Cancelled. Idempotent."""
        self._cancelled = True
        self._call.cancel()

    @property
    def generation_id(self) -> str:
        """The id of the generation that runs now, for `cancel` by id; empty before it is told, and for other streams.

        Another one than `Started` told once the stream was resumed.
        """
        return self._reader.generation_id

    async def _read(self) -> object:
        try:
            return await self._call.read()
        except grpc.RpcError as error:
            failure = error_from_rpc(error, self._reader.generation_id)
            failure.resume_point = self._reader.resume_point
            raise failure from error
        except asyncio.CancelledError:
            if not task_is_cancelled():
                raise self._cancelled_error() from None
            self.cancel()
            raise

    def _end(self) -> None:
        try:
            self._reader.end()
        except StreamTruncated:
            if self._cancelled:  # what gRPC makes of a cancelled call behind an interceptor
                raise self._cancelled_error() from None
            raise

    def _cancelled_error(self) -> Cancelled:
        return Cancelled(
            "cancelled by this client", code=grpc.StatusCode.CANCELLED, generation_id=self._reader.generation_id
        )


class AsyncGenerationStream(AsyncEventStream[generate_pb2.StreamGenerateResponse, StreamEvent]):
    """A generation as it comes: `Started`, the prompt if asked for, `Delta`s and `ToolCall`s, `Finished`.

    Where the connection or the server is lost, the client sends the request again with the tokens that have come, and
    the stream goes on as if nothing had happened; `ResumeOptions` bounds it. `Finished.timings` are those of the last
    call then.

    Example:
        async with client.stream("Name three rivers") as stream:
            async for text in stream.text_stream:
                print(text, end="", flush=True)
            print((await stream.generation()).usage)
    """

    def __init__(self, call: AsyncStreamCall, reader: GenerationReader) -> None:
        self._generation = reader
        super().__init__(call, reader)

    @property
    def started(self) -> Started | None:
        """What the server decided; None before the first event has been read."""
        return self._generation.started

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._generation.text

    @property
    async def text_stream(self) -> AsyncIterator[str]:
        """The pieces of the answer, thinking left out, none empty; ends where the generation ends well."""
        async for event in self:
            if isinstance(event, Delta) and event.channel is Channel.TEXT and event.text:
                yield event.text

    async def generation(self) -> Generation:
        """Read what is left of the stream and return the whole generation."""
        async for _ in self:
            pass
        return self._generation.generation()


class AsyncBatchStream(AsyncEventStream[batch_pb2.StreamBatchGenerateResponse, BatchResult]):
    """The results of a batch, in the order of landing. One that failed does not end the stream: see `BatchResult`."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, batch_pb2.StreamBatchGenerateResponse]) -> None:
        self._batch = BatchReader()
        super().__init__(call, self._batch)

    @property
    def finished(self) -> BatchFinished | None:
        """The total; None before the stream has ended."""
        return self._batch.finished


class AsyncHealthStream(AsyncEventStream[health_pb2.WatchServingStateResponse, Health]):
    """The present state, then every change of it. Ends when the server ends it, normally never."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, health_pb2.WatchServingStateResponse]) -> None:
        super().__init__(call, HealthReader())
