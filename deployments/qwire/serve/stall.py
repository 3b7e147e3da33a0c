"""Notices an engine that has work and takes no step."""

from __future__ import annotations

import time

from qwire.engine.protocol import EngineStats


class StallWatch:
    """Looks at an engine from time to time.

    Args:
        timeout_s: How long it may have work and take no step, seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._steps = -1
        self._since = time.monotonic()

    def check(self, stats: EngineStats) -> None:
        """Look.

        Raises:
            RuntimeError: It has been stuck for too long.
        """
        now = time.monotonic()
        idle = stats.running == 0 and stats.waiting == 0
        if idle or stats.steps != self._steps:
            self._steps, self._since = stats.steps, now
        elif now - self._since > self._timeout_s:
            msg = f"the engine has work and took no step for {now - self._since:.0f} s"
            raise RuntimeError(msg)
