"""What a batch job is, and what became of its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from google.protobuf.timestamp_pb2 import Timestamp

from qwire.client.errors import QwireError
from qwire.client.result import Generation
from qwire.client.status import error_from_status
from qwire.v1 import batch_job_pb2 as pb


class BatchJobState(Enum):
    """Where a job is in its life."""

    OPEN = "open"
    """Takes items, and runs those that it has."""
    RUNNING = "running"
    """Sealed: all items are there, some have no outcome yet."""
    COMPLETED = "completed"
    """Ended: every item has an outcome, which need not be a good one."""
    CANCELLED = "cancelled"
    """Ended by `cancel`."""
    EXPIRED = "expired"
    """Ended by its completion window."""
    UNKNOWN = "unknown"
    """One that this version of the client does not know."""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self in (BatchJobState.COMPLETED, BatchJobState.CANCELLED, BatchJobState.EXPIRED)


class BatchItemState(Enum):
    """Where an item is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    """One that this version of the client does not know."""


@dataclass(frozen=True, slots=True)
class BatchJobUsage:
    """Tokens of a job's items that succeeded, added up; see `Usage`."""

    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job at one moment. Times are in UTC; None = it has not happened.

    Attributes:
        id: Names it, unique for all time.
        request_id: What it was created by.
        labels: What it can be found by.
        state: Where it is in its life.
        total: Items in all; those in each state follow.
        chunks: Chunks that were appended.
        usage: Tokens so far.
        created: When it was created.
        sealed: When it was sealed.
        ended: When it ended.
        expires: When its completion window ends; None = it has none.
        deleted: When it is going to be deleted.
    """

    id: str
    request_id: str
    labels: Mapping[str, str]
    state: BatchJobState
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    chunks: int
    usage: BatchJobUsage
    created: datetime | None
    sealed: datetime | None
    ended: datetime | None
    expires: datetime | None
    deleted: datetime | None

    @classmethod
    def from_proto(cls, proto: pb.BatchJob) -> BatchJob:
        """Convert the message."""
        counts, usage = proto.counts, proto.usage
        return cls(
            id=proto.id,
            request_id=proto.request_id,
            labels=dict(proto.labels),
            state=JOB_STATES.get(proto.state, BatchJobState.UNKNOWN),
            total=counts.total,
            pending=counts.pending,
            running=counts.running,
            succeeded=counts.succeeded,
            failed=counts.failed,
            cancelled=counts.cancelled,
            expired=counts.expired,
            chunks=proto.chunks,
            usage=BatchJobUsage(
                usage.prompt_tokens, usage.output_tokens, usage.cached_prompt_tokens, usage.reasoning_tokens
            ),
            created=_time(proto, "create_time"),
            sealed=_time(proto, "seal_time"),
            ended=_time(proto, "end_time"),
            expires=_time(proto, "expire_time"),
            deleted=_time(proto, "delete_time"),
        )

    @property
    def landed(self) -> int:
        """Items with an outcome."""
        return self.total - self.pending - self.running


@dataclass(frozen=True, slots=True)
class BatchJobItem:
    """An item and what became of it.

    Attributes:
        id: Names it within its job.
        number: Its place in the job, from 1.
        state: Where it is in its life.
        attempts: How often it was begun.
        ended: When its outcome was recorded, in UTC; None = it has none.
        generation: For SUCCEEDED, unless it was not asked for.
        error: For FAILED, CANCELLED and EXPIRED, not raised: the error that `generate` would have raised.
        cursor: Where a watch goes on after it; 0 = it did not come from a watch.
    """

    id: str
    number: int
    state: BatchItemState
    attempts: int
    ended: datetime | None
    generation: Generation | None
    error: QwireError | None
    cursor: int = 0

    @classmethod
    def from_proto(cls, proto: pb.BatchJobItem, cursor: int = 0) -> BatchJobItem:
        """Convert the message."""
        return cls(
            id=proto.id,
            number=proto.number,
            state=ITEM_STATES.get(proto.state, BatchItemState.UNKNOWN),
            attempts=proto.attempts,
            ended=_time(proto, "end_time"),
            generation=Generation.from_proto(proto.generation) if proto.HasField("generation") else None,
            error=error_from_status(proto.error) if proto.HasField("error") else None,
            cursor=cursor,
        )

    def unwrap(self) -> Generation:
        """Return the generation, or raise the error.

        Raises:
            QwireError: The item failed.
            ValueError: It has no outcome yet, or its generation was not asked for.
        """
        if self.error is not None:
            raise self.error
        if self.generation is None:
            raise ValueError(f"item {self.id!r} is {self.state.value} and came without a generation")
        return self.generation


@dataclass(frozen=True, slots=True)
class RejectedItem:
    """An item that is no part of its job.

    Attributes:
        id: The id that it was sent with.
        chunk: Its chunk.
        index: Its place in the chunk, from 0.
        error: Why, not raised.
    """

    id: str
    chunk: int
    index: int
    error: QwireError


@dataclass(frozen=True, slots=True)
class Upload:
    """What was appended to a job.

    Attributes:
        accepted: Items that are part of the job.
        rejected: The others.
        chunks: Chunks that they came in.
    """

    accepted: int
    rejected: tuple[RejectedItem, ...]
    chunks: int


JOB_STATES = {
    pb.BATCH_JOB_STATE_OPEN: BatchJobState.OPEN,
    pb.BATCH_JOB_STATE_RUNNING: BatchJobState.RUNNING,
    pb.BATCH_JOB_STATE_COMPLETED: BatchJobState.COMPLETED,
    pb.BATCH_JOB_STATE_CANCELLED: BatchJobState.CANCELLED,
    pb.BATCH_JOB_STATE_EXPIRED: BatchJobState.EXPIRED,
}

ITEM_STATES = {
    pb.BATCH_ITEM_STATE_PENDING: BatchItemState.PENDING,
    pb.BATCH_ITEM_STATE_RUNNING: BatchItemState.RUNNING,
    pb.BATCH_ITEM_STATE_SUCCEEDED: BatchItemState.SUCCEEDED,
    pb.BATCH_ITEM_STATE_FAILED: BatchItemState.FAILED,
    pb.BATCH_ITEM_STATE_CANCELLED: BatchItemState.CANCELLED,
    pb.BATCH_ITEM_STATE_EXPIRED: BatchItemState.EXPIRED,
}


def _time(proto: pb.BatchJob | pb.BatchJobItem, field: str) -> datetime | None:
    if not proto.HasField(field):  # pyright: ignore[reportArgumentType] - callers name their own fields
        return None
    time: Timestamp = getattr(proto, field)
    return time.ToDatetime(UTC)
