"""How fast the engine lately was: steps, prompts, and how long a generation keeps its place."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW_S = 60
_LEAST_SAMPLES = 8
"""Fewer than this many say nothing: the first steps of a process are slow, and one generation is no mean."""


@dataclass(slots=True)
class _Second:
    second: int
    full_steps: int = 0
    best_tokens_per_s: float = 0.0
    place_s: float = 0.0
    departures: int = 0


class Pace:
    """What the steps of the last minute tell. Times are of a monotonic clock.

    Args:
        max_step_tokens: Tokens of a full step.
    """

    def __init__(self, max_step_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens
        self._seconds: deque[_Second] = deque()

    def record(self, now_s: float, step_s: float, *, tokens: int, running: int, departures: int) -> None:
        """Count a step.

        Args:
            now_s: When it ended.
            step_s: How long it took, seconds.
            tokens: Tokens that it computed.
            running: Generations that had a place meanwhile.
            departures: Generations that gave their place up for good since the step before.
        """
        second = int(now_s)
        if not self._seconds or self._seconds[-1].second != second:
            self._forget(now_s)
            self._seconds.append(_Second(second))
        last = self._seconds[-1]
        if tokens >= self._max_step_tokens and step_s > 0:
            last.full_steps += 1
            last.best_tokens_per_s = max(last.best_tokens_per_s, tokens / step_s)
        last.place_s += running * step_s
        last.departures += departures

    def prefill_tokens_per_s(self, now_s: float) -> float | None:
        """Return the tokens per second of the fastest full step; None = too few were full to tell.

        Only full steps count: part of a step's time does not depend on its tokens, so that a small one looks slow.
        """
        self._forget(now_s)
        if sum(second.full_steps for second in self._seconds) < _LEAST_SAMPLES:
            return None
        return max(second.best_tokens_per_s for second in self._seconds)

    def place_s(self, now_s: float) -> float | None:
        """Return how long a generation keeps its place, mean, seconds; None = too few ended to tell."""
        self._forget(now_s)
        departures = sum(second.departures for second in self._seconds)
        if departures < _LEAST_SAMPLES:
            return None
        return sum(second.place_s for second in self._seconds) / departures

    def _forget(self, now_s: float) -> None:
        while self._seconds and self._seconds[0].second < now_s - _WINDOW_S:
            self._seconds.popleft()
