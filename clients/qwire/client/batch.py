"""What became of the items of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from qwire.client.errors import QwireError, StreamBroken
from qwire.client.result import Generation
from qwire.client.status import error_from_status
from qwire.client.usage import Usage
from qwire.v1 import batch_pb2


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one item: a generation or an error.

    Attributes:
        id: The item's id.
        generation: The generation; None = it failed.
        error: Why it failed, not raised: the error that `generate` would have raised. None = it did not.
    """

    id: str
    generation: Generation | None
    error: QwireError | None

    @classmethod
    def from_proto(cls, proto: batch_pb2.BatchItemResult) -> BatchResult:
        """Convert the message.

        Raises:
            StreamBroken: The message has no outcome.
        """
        match proto.WhichOneof("outcome"):
            case "generation":
                return cls(proto.id, Generation.from_proto(proto.generation), None)
            case "error":
                return cls(proto.id, None, error_from_status(proto.error))
            case None:
                raise StreamBroken(f"batch item {proto.id!r} has no outcome that this client knows")

    def unwrap(self) -> Generation:
        """Return the generation, or raise the item's error."""
        if self.generation is None:
            raise self.error or StreamBroken(f"batch item {self.id!r} has no outcome")
        return self.generation


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """Every item of a batch has its outcome.

    Attributes:
        succeeded: Items with a generation.
        failed: Items with an error.
        usage: Tokens of the items that succeeded, added up.
    """

    succeeded: int
    failed: int
    usage: Usage

    @classmethod
    def from_proto(cls, proto: batch_pb2.BatchFinished) -> BatchFinished:
        """Convert the message."""
        return cls(proto.succeeded, proto.failed, Usage.from_proto(proto.usage))
