"""What a job is, as the store tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class JobState(IntEnum):
    """Where a job is in its life. The numbers are stored, and are those of the contract's BatchJobState."""

    OPEN = 1
    RUNNING = 2
    COMPLETED = 3
    CANCELLED = 4
    EXPIRED = 5

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self >= JobState.COMPLETED


class ItemState(IntEnum):
    """Where an item is in its life. The numbers are stored, and are those of the contract's BatchItemState."""

    PENDING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6

    @property
    def ended(self) -> bool:
        """Whether it has an outcome."""
        return self >= ItemState.SUCCEEDED


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is created from.

    Attributes:
        request_id: Names the request among the caller's.
        request_digest: Equal for two requests that ask for the same.
        labels: What the caller finds it by.
        priority: As the envelope's: higher goes first.
        completion_window_ns: How long after its creation it may take; None = as long as it takes.
        retention_ns: How long it is kept after its end.
        max_attempts: Attempts of an item before a failure becomes its outcome.
    """

    request_id: str
    request_digest: bytes
    retention_ns: int
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    priority: int = -1
    completion_window_ns: int | None = None
    max_attempts: int = 5


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens read and written; see Usage in the contract."""

    prompt: int = 0
    output: int = 0
    cached_prompt: int = 0
    reasoning: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.output + other.output,
            self.cached_prompt + other.cached_prompt,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one moment.

    Attributes:
        id: Names it, unique for all time.
        tenant: Whose it is.
        request_id: What it was created by.
        labels: What the caller finds it by.
        priority: As the envelope's: higher goes first.
        state: Where it is in its life.
        counts: Items in each state; a state that is missing has none.
        chunks: Chunks that were appended.
        tokens: Of the items that succeeded.
        landed: The cursor of the last outcome; 0 = there is none.
        created_ns: When it was created, nanoseconds since the epoch, like all that follow; None = it has not happened.
        sealed_ns: When it was sealed.
        ended_ns: When it ended.
        expires_ns: When its completion window ends.
        delete_ns: When it is deleted.
    """

    id: str
    tenant: str
    request_id: str
    labels: Mapping[str, str]
    priority: int
    state: JobState
    counts: Mapping[ItemState, int]
    chunks: int
    tokens: Tokens
    landed: int
    created_ns: int
    sealed_ns: int | None
    ended_ns: int | None
    expires_ns: int | None
    delete_ns: int | None

    @property
    def items(self) -> int:
        """Items in all."""
        return sum(self.counts.values())
