"""Which replicas of a model run, and which of them are new."""

from __future__ import annotations

import asyncio
import math
import time

from qwire.engine.errors import EngineUnavailable
from qwire.serve.handle import ReplicaHandle

_FRESH_S = 1.0
_MANY = 1000
_TIMEOUT_S = 10.0


class Fleet:
    """The replicas of one version of a model, by the ids that they tell.

    Args:
        replicas: The way to them.
        version: The model version.
    """

    def __init__(self, replicas: ReplicaHandle, version: str) -> None:
        self._replicas = replicas
        self._version = version
        self._first_seen: dict[str, float] = {}
        self._present: tuple[str, ...] = ()
        self._asked_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """See to it that what is known is of late. Waits for nothing: a replica that hangs is to hold up no call."""
        now = time.monotonic()
        if now - self._asked_at >= _FRESH_S and (self._asking is None or self._asking.done()):
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask())

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            answers = await self._replicas.broadcast("presence", self._version, timeout_s=_TIMEOUT_S)
        except EngineUnavailable:
            return
        self._present = tuple(answers.values)
        if len(self._first_seen) > _MANY:
            self._first_seen = {one: self._first_seen[one] for one in self._present if one in self._first_seen}
        # Nobody knows when those came that are there at the first look.
        seen = time.monotonic() if self._first_seen else -math.inf
        for one in self._present:
            self._first_seen.setdefault(one, seen)

    def new_share(self, since: float) -> float:
        """Return the share of the replicas that were first seen after a moment of the monotonic clock."""
        new = sum(self._first_seen[one] > since for one in self._present)
        return new / len(self._present) if new else 0.0
