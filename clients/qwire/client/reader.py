"""Reads the messages of a stream: holds it to its contract, adds up what it says. No I/O, so both clients share it."""

from __future__ import annotations

from typing import Protocol, TypeVar

from qwire.client.batch import BatchFinished, BatchResult
from qwire.client.errors import StreamBroken, StreamTruncated
from qwire.client.health import Health
from qwire.client.resume_point import ResumePoint
from qwire.v1 import batch_pb2, health_pb2

ResponseT_contra = TypeVar("ResponseT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)


class Reader(Protocol[ResponseT_contra, EventT_co]):
    """Turns the messages of one stream into events."""

    @property
    def generation_id(self) -> str:
        """The generation that the stream is of; empty = none, or not known yet."""
        ...

    @property
    def resume_point(self) -> ResumePoint | None:
        """Where the stream can be gone on with after a break; None = nowhere."""
        ...

    def read(self, response: ResponseT_contra) -> EventT_co | None:
        """Take the next message; None = it is nothing to tell of.

        Raises:
            StreamBroken: It may not come here, or is not known.
        """
        ...

    def end(self) -> None:
        """Take the end of the stream with status OK.

        Raises:
            StreamTruncated: Its last event is missing.
        """
        ...


class Sequence:
    """Counts 1, 2, 3 and so on with a stream, from after `last`."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._shift = 0

    def take(self, sequence: int, generation_id: str = "") -> None:
        """Take the number of the next message.

        Raises:
            StreamBroken: It is another one than is due.
        """
        due = self.last + 1 + self._shift
        if sequence != due:
            raise StreamBroken(
                f"event {sequence} came where {due} was due: output is missing", generation_id=generation_id
            )
        self.last += 1

    def hide(self) -> None:
        """Leave out the message that was taken last: the one after it gets its number."""
        self.last -= 1
        self._shift += 1

    def restart(self, first: int) -> None:
        """Go on counting in a stream whose first message has this number."""
        self._shift = first - (self.last + 1)


class BatchReader:
    """Reads `StreamBatchGenerate`: one result per item, then the total, which is kept and not an event of its own."""

    generation_id = ""
    resume_point = None

    def __init__(self) -> None:
        self.finished: BatchFinished | None = None
        self._sequence = Sequence()

    def read(self, response: batch_pb2.StreamBatchGenerateResponse) -> BatchResult | None:
        """Take the next message; None = it was the total."""
        self._sequence.take(response.sequence)
        if self.finished is not None:
            raise StreamBroken("an event came after the batch was finished")
        match response.WhichOneof("event"):
            case "result":
                return BatchResult.from_proto(response.result)
            case "finished":
                self.finished = BatchFinished.from_proto(response.finished)
                return None
            case None:
                raise StreamBroken("an event that this client does not know")

    def end(self) -> None:
        """Take the end of the stream."""
        if self.finished is None:
            raise StreamTruncated("the batch stream ended before it was finished")


class HealthReader:
    """Reads `WatchServingState`: the present state, then every change; it has no last event."""

    generation_id = ""
    resume_point = None

    def __init__(self) -> None:
        self._sequence = Sequence()

    def read(self, response: health_pb2.WatchServingStateResponse) -> Health:
        """Take the next message."""
        self._sequence.take(response.sequence)
        return Health.from_proto(response.status)

    def end(self) -> None:
        """Take the end of the stream: the server may end a watch at any time."""
