"""How long a gateway goes on looking for a replica after it lost one."""

from __future__ import annotations

import asyncio
import math
import time

from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, ReplicasLost

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


class Patience:
    """Waits before each new attempt, longer each time; progress renews it.

    Args:
        timeout_s: How long without a replica that takes the call, seconds; 0 = none at all.
        attempts: How many new attempts in a row without progress.
        losses: How many replicas in all, whatever the progress.
        deadline_unix_ns: When the answer is worth nothing any more; None = never.

    Attributes:
        lost_replicas: The ids of those that were lost.
    """

    def __init__(self, timeout_s: float, attempts: int, losses: int, deadline_unix_ns: int | None) -> None:
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._losses = losses
        self._deadline_unix_ns = deadline_unix_ns
        self.lost_replicas: frozenset[str] = frozenset()
        self.renew()

    def renew(self) -> None:
        """Note progress."""
        self._lost_at: float | None = None
        self._attempts_left = self._attempts
        self._wait_s = _FIRST_WAIT_S

    def found(self) -> None:
        """Note that a replica has taken the call, though there is nothing of it yet: looking for one is over."""
        self._lost_at = None

    @property
    def left_s(self) -> float:
        """How long it may take from now on until a replica takes the call, seconds: no limit while nothing is lost."""
        return math.inf if self._lost_at is None else self._lost_at + self._timeout_s - time.monotonic()

    async def wait(self, lost: EngineUnavailable, replica: str) -> None:
        """Wait before the next attempt.

        Args:
            lost: How the last one ended.
            replica: Where it was; empty = no replica took it.

        Raises:
            EngineUnavailable: What was lost, where it is not worth another attempt.
            ReplicasLost: It may be the generation that brings replicas down.
            DeadlineExceeded: The deadline would pass meanwhile.
        """
        self._lost_at = self._lost_at or time.monotonic()
        self.lost_replicas |= {replica} - {""}
        if len(self.lost_replicas) > self._losses:
            raise ReplicasLost from lost
        if self._wait_s > self.left_s or self._attempts_left == 0:
            raise lost
        self._attempts_left -= 1
        if self._deadline_unix_ns is not None and time.time_ns() + self._wait_s * 1e9 >= self._deadline_unix_ns:
            raise DeadlineExceeded from lost
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
