"""The seam between the runner, which knows jobs, and what generates, which knows models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from qwire.batch.item import LeasedItem
from qwire.batch.job import ItemState, Tokens


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt ended with an outcome.

    Attributes:
        state: SUCCEEDED or FAILED.
        content: The generation or the error.
        tokens: Read and written, for SUCCEEDED.
    """

    state: ItemState
    content: bytes
    tokens: Tokens = field(default_factory=Tokens)


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An attempt ended without an outcome, and another one is worth it.

    Attributes:
        error: What becomes the outcome where it was one attempt too many.
        failed: Whether it counts as one: not where a server was busy or went away.
        overloaded: Whether there was too much to do at once.
        retry_after_s: When another one is worth it, seconds; None = nobody knows.
    """

    error: bytes
    failed: bool
    overloaded: bool = False
    retry_after_s: float | None = None


class Work(Protocol):
    """One attempt at one item."""

    async def run(self, taken: Callable[[], None]) -> Ended | Interrupted:
        """Generate; cancelling it ends the generation.

        Args:
            taken: Called once, when a model has taken the item; not where it refuses it.
        """
        ...

    def partial(self) -> bytes:
        """Return what is there so far, for `LeasedItem.partial` of the next attempt; empty = nothing."""
        ...


class Workshop(Protocol):
    """Makes attempts."""

    def begin(self, item: LeasedItem) -> Work:
        """Return an attempt at an item, which goes on from the item's partial output."""
        ...
