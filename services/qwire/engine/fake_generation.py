"""One request on its way through a fake engine."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress

from qwire.engine.errors import DeadlineExceeded, EngineError
from qwire.engine.request import TokenRequest


class FakeGeneration:
    """A request's turn and its end; see `FakeEngine`.

    Args:
        request: What was asked for.
    """

    def __init__(self, request: TokenRequest) -> None:
        self.request = request
        self.arrived_unix_ns = time.time_ns()
        self.admitted = False
        self.error: EngineError | None = None
        self._woken = asyncio.Event()

    def admit(self) -> None:
        """Let it begin."""
        self.admitted = True
        self._woken.set()

    def fail(self, error: EngineError) -> None:
        """Let it end with an error."""
        self.error = error
        self._woken.set()

    async def wait_admitted(self) -> None:
        """Wait for its turn; raise as `sleep`."""
        while not self.admitted:
            await self.sleep(math.inf)
        self._woken.clear()

    async def sleep(self, duration_s: float) -> None:
        """Sleep; raise at once when told to fail, and when the deadline passes."""
        deadline = self.request.envelope.deadline_unix_ns
        left_s = math.inf if deadline is None else max(0.0, (deadline - time.time_ns()) / 1e9)
        sleep_s = min(duration_s, left_s)
        if sleep_s == 0.0:
            await asyncio.sleep(0)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if sleep_s == math.inf else sleep_s):
                    await self._woken.wait()
        if self.error is not None:
            raise self.error
        if deadline is not None and time.time_ns() >= deadline:
            raise DeadlineExceeded
