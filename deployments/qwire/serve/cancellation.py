"""Ends generations by their ids, wherever they are: at a replica, or on the way to another one."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress

from qwire.engine.errors import EngineUnavailable, GenerationCancelled
from qwire.serve.handle import ReplicaHandle

_TIMEOUT_S = 10.0


class Cancellations:
    """Of the generations of one model that go through this process, and of all that its replicas have.

    Args:
        replicas: The way to them.
    """

    def __init__(self, replicas: ReplicaHandle) -> None:
        self._replicas = replicas
        self._live = set[str]()
        self._looking = set[str]()  # of those, the ones of which no replica has said anything since they were lost
        self._cancelled = set[str]()
        self._taking_back = set[asyncio.Task[None]]()

    @contextmanager
    def live(self, request_id: str) -> Generator[None]:
        """Know of a generation as long as the context lasts."""
        self._live.add(request_id)
        try:
            yield
        finally:
            self._live.discard(request_id)
            self._looking.discard(request_id)
            self._cancelled.discard(request_id)

    def looks(self, request_id: str) -> None:
        """Take note that a generation looks for a replica.

        Raises:
            GenerationCancelled: It is cancelled.
        """
        self._looking.add(request_id)
        self._check(request_id)

    def goes_on(self, request_id: str) -> None:
        """Take note that a replica has said something of it.

        Raises:
            GenerationCancelled: It is cancelled.
        """
        self._looking.discard(request_id)
        self._check(request_id)

    async def cancel(self, request_id: str, *, only_waiting: bool) -> bool:
        """Cancel on whichever replica has it. See `Engine.cancel`.

        Raises:
            EngineUnavailable: No replica had it, but not every replica answered.
        """
        try:
            answers = await self._replicas.broadcast("cancel", request_id, only_waiting, timeout_s=_TIMEOUT_S)
            found, missing = any(answers.values), answers.missing > 0
        except EngineUnavailable:
            found, missing = False, True
        known = not only_waiting and request_id in self._live
        if known and (found or request_id in self._looking):
            # Whoever was found may be a replica that this side has lost, and the generation be on its way elsewhere.
            self._cancelled.add(request_id)
            return True
        if not found and missing:
            raise EngineUnavailable
        return found

    def take_back(self, request_id: str) -> None:
        """Have its replica give up one for which nothing has been computed. Waits for nothing: its call will tell."""
        task = asyncio.create_task(self._take_back(request_id))
        self._taking_back.add(task)
        task.add_done_callback(self._taking_back.discard)

    async def close(self) -> None:
        """Take back nothing more."""
        for task in self._taking_back:
            task.cancel()
        await asyncio.gather(*self._taking_back, return_exceptions=True)

    async def _take_back(self, request_id: str) -> None:
        with suppress(EngineUnavailable):
            await self.cancel(request_id, only_waiting=True)

    def _check(self, request_id: str) -> None:
        if request_id in self._cancelled:
            raise GenerationCancelled
