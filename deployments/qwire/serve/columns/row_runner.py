"""Has rows generated as the runner of batch jobs has its items, but for the store."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from qwire.batch.item import LeasedItem, Outcome
from qwire.batch.job import ItemState
from qwire.batch.runner import outcome_of
from qwire.batch.window import Window
from qwire.batch.work import Interrupted, Workshop


class RowRunner:
    """Bounds what is under way by a window, and tries again what is interrupted, from where it was.

    Args:
        workshop: Generates.
        most: Rows under way at the most.
    """

    def __init__(self, workshop: Workshop, most: int) -> None:
        self._workshop = workshop
        self._window = Window(most)
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def run(self, item: LeasedItem) -> Outcome:
        """Return what became of an item, which is SUCCEEDED or FAILED; cancelling it ends its generation."""
        while True:
            async with self._place():
                work = self._workshop.begin(item)
                ended = await work.run(self._taken)
                if isinstance(ended, Interrupted) and ended.overloaded:
                    self._window.shrink()
            outcome = outcome_of(item, work, ended)
            if outcome.state is not ItemState.PENDING:
                return outcome
            item = replace(item, partial=outcome.partial, failures=item.failures + outcome.failed)
            await asyncio.sleep(max(0.0, (outcome.available_ns - time.time_ns()) / 1e9))

    def _taken(self) -> None:
        self._window.grow()
        self._admit()

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        """Wait for a place within the window, first come, first served."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
            yield
        finally:
            if not place.cancelled():  # else it never came
                self._running -= 1
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._running < self._window.size:
            place = self._waiting.popleft()
            if not place.cancelled():
                place.set_result(None)
                self._running += 1
