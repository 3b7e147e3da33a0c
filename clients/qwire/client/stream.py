"""Streams of the blocking client."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc

from qwire.client.batch import BatchFinished, BatchResult
from qwire.client.errors import QwireError
from qwire.client.generation_reader import GenerationReader
from qwire.client.health import Health
from qwire.client.reader import BatchReader, HealthReader, Reader
from qwire.client.result import Channel, Delta, Generation, StreamEvent
from qwire.client.started import Started
from qwire.client.status import error_from_rpc
from qwire.v1 import batch_pb2, generate_pb2, health_pb2

ResponseT = TypeVar("ResponseT")
ResponseT_co = TypeVar("ResponseT_co", covariant=True)
EventT = TypeVar("EventT")


class StreamCall(Protocol[ResponseT_co]):
    """What this module needs of a gRPC call: its responses, and a way to end it."""

    def __next__(self) -> ResponseT_co:
        """Wait for the next response."""
        ...

    def cancel(self) -> object:
        """End the call."""
        ...


class EventStream(Generic[ResponseT, EventT]):
    """Iterates over the events of one call. Leaving the `with` block, or `cancel`, ends the call and frees its place.

    Iteration raises the typed error of the call where it fails; what came before stays valid as what it is, a part.
    """

    def __init__(self, call: StreamCall[ResponseT], reader: Reader[ResponseT, EventT]) -> None:
        self._call = call
        self._reader = reader
        self._failure: QwireError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> EventT:
        if self._failure is not None:
            raise self._failure
        try:
            while (event := self._reader.read(next(self._call))) is None:
                pass
        except StopIteration:
            self._end()
            raise
        except grpc.RpcError as error:
            self._failure = error_from_rpc(error, self._reader.generation_id)
            self._failure.resume_point = self._reader.resume_point
            raise self._failure from error
        except QwireError as error:
            self._failure = error
            self.cancel()
            raise
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the call: the server stops decoding within two steps. Iteration then raises Cancelled. Idempotent."""
        self._call.cancel()

    @property
    def generation_id(self) -> str:
        """The id of the generation that runs now, for `cancel` by id; empty before it is told, and for other streams.

        Another one than `Started` told once the stream was resumed.
        """
        return self._reader.generation_id

    def _end(self) -> None:
        try:
            self._reader.end()
        except QwireError as error:
            self._failure = error
            raise


class GenerationStream(EventStream[generate_pb2.StreamGenerateResponse, StreamEvent]):
    """A generation as it comes: `Started`, then `Delta`s and `ToolCall`s, then `Finished`.

    Where the connection or the server is lost, the client sends the request again with the tokens that have come, and
    the stream goes on as if nothing had happened; `ResumeOptions` bounds it. `Finished.timings` are those of the last
    call then.

    Example:
        with client.stream("Name three rivers") as stream:
            for text in stream.text_stream:
                print(text, end="", flush=True)
            print(stream.generation().usage)
    """

    def __init__(self, call: StreamCall[generate_pb2.StreamGenerateResponse], reader: GenerationReader) -> None:
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
    def text_stream(self) -> Iterator[str]:
        """The pieces of the answer, thinking left out, none empty; ends where the generation ends well."""
        for event in self:
            if isinstance(event, Delta) and event.channel is Channel.TEXT and event.text:
                yield event.text

    def generation(self) -> Generation:
        """Read what is left of the stream and return the whole generation."""
        for _ in self:
            pass
        return self._generation.generation()


class BatchStream(EventStream[batch_pb2.StreamBatchGenerateResponse, BatchResult]):
    """The results of a batch, in the order of landing. One that failed does not end the stream: see `BatchResult`."""

    def __init__(self, call: StreamCall[batch_pb2.StreamBatchGenerateResponse]) -> None:
        self._batch = BatchReader()
        super().__init__(call, self._batch)

    @property
    def finished(self) -> BatchFinished | None:
        """The total; None before the stream has ended."""
        return self._batch.finished


class HealthStream(EventStream[health_pb2.WatchServingStateResponse, Health]):
    """The present state, then every change of it. Ends when the server ends it, normally never."""

    def __init__(self, call: StreamCall[health_pb2.WatchServingStateResponse]) -> None:
        super().__init__(call, HealthReader())
