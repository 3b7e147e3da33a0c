"""What an item is on its way in, while it runs, and with its outcome. What it asks for and says is opaque bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from qwire.batch.job import ItemState, Tokens


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to append.

    Attributes:
        index: Its place in its chunk, from 0.
        id: Names it within its job.
        spec: What it asks for.
    """

    index: int
    id: str
    spec: bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """An item of a chunk that is no part of the job.

    Attributes:
        index: Its place in its chunk.
        id: The id that it came with.
        error: Why; empty = its id is taken.
    """

    index: int
    id: str
    error: bytes = b""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that was appended.

    Attributes:
        digest: Of all its items, rejected ones included.
        accepted: Items that are part of the job.
        rejections: The others.
    """

    digest: bytes
    accepted: int
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to record what becomes of one item, until another runner gets it.

    Attributes:
        job_id: The item's job.
        number: Its place in the job.
        token: Grows with every lease of the item: only the holder of the last one may record.
    """

    job_id: str
    number: int
    token: int


@dataclass(frozen=True, slots=True)
class LeasedItem:
    """An item that a runner works on.

    Attributes:
        lease: The right to record its outcome.
        id: Names it within its job.
        tenant: Whose job it is.
        spec: What it asks for.
        partial: What earlier attempts had when they were interrupted, as `Checkpoint.partial`; empty = nothing.
        failures: Attempts that failed before.
        max_attempts: Attempts before a failure becomes its outcome.
        priority: As the envelope's.
        expires_ns: When its job's completion window ends; None = it has none.
    """

    lease: Lease
    id: str
    tenant: str
    spec: bytes
    partial: bytes
    failures: int
    max_attempts: int
    priority: int
    expires_ns: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a leased item.

    Attributes:
        lease: The right to record it.
        state: SUCCEEDED, FAILED, or PENDING for another attempt.
        content: The generation or the error; empty for PENDING.
        tokens: Read and written, for SUCCEEDED.
        failed: Whether the attempt counts as one, for PENDING: it does not where a server went away.
        available_ns: When another attempt may begin, for PENDING.
        partial: What is there already, for PENDING; empty = nothing.
    """

    lease: Lease
    state: ItemState
    content: bytes = b""
    tokens: Tokens = field(default_factory=Tokens)
    failed: bool = False
    available_ns: int = 0
    partial: bytes = b""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Output of a running item, kept so that an interruption does not lose it.

    Attributes:
        lease: The right to record it.
        partial: The output so far.
    """

    lease: Lease
    partial: bytes


@dataclass(frozen=True, slots=True)
class Item:
    """An item at one moment.

    Attributes:
        number: Its place in its job, from 1, without gaps.
        id: Names it within its job.
        state: Where it is in its life.
        attempts: How often it was begun.
        content: The generation of one that succeeded, the error of one that failed; else empty.
        landed: The cursor of its outcome; 0 = it has none.
        ended_ns: When its outcome was recorded, nanoseconds since the epoch; None = it has none.
    """

    number: int
    id: str
    state: ItemState
    attempts: int
    content: bytes
    landed: int
    ended_ns: int | None
