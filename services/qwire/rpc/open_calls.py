"""The calls that are open, so that a server can let them finish before it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class OpenCalls:
    """Tasks that answer calls with a model. Used from one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._evicted: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def enter(self) -> Generator[None]:
        """Count the current task as an open call while the context lasts."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC answers each call in a task of its own
        self._tasks.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no call is open. False = some still are after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def evict(self) -> int:
        """End every open call, wait until they have ended, and return how many there were."""
        tasks = tuple(self._tasks)
        self._evicted.update(tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return len(tasks)

    def was_evicted(self) -> bool:
        """Whether the current task was cancelled by `evict`, rather than by its caller."""
        return asyncio.current_task() in self._evicted
