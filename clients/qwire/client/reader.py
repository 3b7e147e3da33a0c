"""Reads the messages of a stream: holds it to its contract, adds up what it says. No I/O, so both clients share it."""

from __future__ import annotations

from typing import Protocol, TypeVar

from qwire.client.batch import BatchFinished, BatchResult
from qwire.client.errors import StreamBroken, StreamTruncated
from qwire.client.health import Health
from qwire.client.result import Channel, Delta, Finished, Generation, PromptRead, StreamEvent, TokenInfo
from qwire.client.started import Started
from qwire.client.tool import ToolCall
from qwire.v1 import batch_pb2, generate_pb2, health_pb2

ResponseT_contra = TypeVar("ResponseT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)


class Reader(Protocol[ResponseT_contra, EventT_co]):
    """Turns the messages of one stream into events."""

    @property
    def generation_id(self) -> str:
        """The generation that the stream is of; empty = none, or not known yet."""
        ...

    def read(self, response: ResponseT_contra) -> EventT_co:
        """Take the next message.

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


class _Sequence:
    """Counts 1, 2, 3 and so on with the stream."""

    def __init__(self) -> None:
        self._last = 0

    def take(self, sequence: int, generation_id: str = "") -> None:
        if sequence != self._last + 1:
            raise StreamBroken(
                f"event {sequence} came where {self._last + 1} was due: output is missing", generation_id=generation_id
            )
        self._last = sequence


class GenerationReader:
    """Reads `StreamGenerate`: one `Started`, the prompt, then deltas and tool calls, then one `Finished`."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.finished: Finished | None = None
        self._sequence = _Sequence()
        self._begun = False
        self._prompt: list[PromptRead] = []
        self._texts: dict[Channel, list[str]] = {Channel.TEXT: [], Channel.REASONING: []}
        self._tool_calls: list[ToolCall] = []
        self._tokens: list[TokenInfo] = []

    @property
    def generation_id(self) -> str:
        """The generation's id; empty before `Started`."""
        return self.started.generation_id if self.started else ""

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts[Channel.TEXT])

    def read(self, response: generate_pb2.StreamGenerateResponse) -> StreamEvent:
        """Take the next message."""
        self._sequence.take(response.sequence, self.generation_id)
        kind = response.WhichOneof("event")
        if (kind == "started") != (self.started is None) or self.finished is not None:
            raise StreamBroken(f"event {kind!r} may not come here", generation_id=self.generation_id)
        match kind:
            case "started":
                self.started = Started.from_proto(response.started)
                return self.started
            case "prompt":
                if self._begun:
                    raise StreamBroken("more of the prompt came after output", generation_id=self.generation_id)
                self._prompt.append(PromptRead.from_proto(response.prompt))
                return self._prompt[-1]
            case "delta":
                return self._add(Delta.from_proto(response.delta))
            case "tool_call":
                self._begun = True
                call = ToolCall.from_proto(response.tool_call)
                self._tool_calls.append(call)
                return call
            case "finished":
                self.finished = Finished.from_proto(response.finished)
                return self.finished
            case None:
                raise StreamBroken("an event that this client does not know", generation_id=self.generation_id)

    def end(self) -> None:
        """Take the end of the stream."""
        if self.finished is None:
            raise StreamTruncated("the stream ended before it was finished", generation_id=self.generation_id)

    def generation(self) -> Generation:
        """Return all of it, once it is finished.

        Raises:
            StreamTruncated: It is not.
        """
        if self.started is None or self.finished is None:
            raise StreamTruncated("the stream is not finished", generation_id=self.generation_id)
        return Generation(
            started=self.started,
            text=self.text,
            reasoning="".join(self._texts[Channel.REASONING]),
            tool_calls=tuple(self._tool_calls),
            tokens=tuple(self._tokens),
            finished=self.finished,
            prompt=PromptRead(
                "".join(read.text for read in self._prompt), tuple(one for read in self._prompt for one in read.tokens)
            ),
        )

    def _add(self, delta: Delta) -> Delta:
        self._begun = True
        texts = self._texts.get(delta.channel)
        if texts is None:
            raise StreamBroken("a channel that this client does not know", generation_id=self.generation_id)
        texts.append(delta.text)
        self._tokens.extend(delta.tokens)
        return delta


class BatchReader:
    """Reads `StreamBatchGenerate`: one result per item, then the total, which is kept and not an event of its own."""

    generation_id = ""

    def __init__(self) -> None:
        self.finished: BatchFinished | None = None
        self._sequence = _Sequence()

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

    def __init__(self) -> None:
        self._sequence = _Sequence()

    def read(self, response: health_pb2.WatchServingStateResponse) -> Health:
        """Take the next message."""
        self._sequence.take(response.sequence)
        return Health.from_proto(response.status)

    def end(self) -> None:
        """Take the end of the stream: the server may end a watch at any time."""
