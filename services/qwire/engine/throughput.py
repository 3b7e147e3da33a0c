"""How fast generations decode."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW_S = 60


@dataclass(slots=True)
class _Second:
    second: int
    tokens: int = 0
    generation_s: float = 0.0


class DecodeRate:
    """Output tokens per second of one generation, mean over the last minute. Times are of a monotonic clock."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()

    def record(self, now_s: float, step_s: float, generations: int, tokens: int) -> None:
        """Count a step of `step_s` seconds in which `generations` generations decoded `tokens` tokens in all."""
        second = int(now_s)
        if not self._seconds or self._seconds[-1].second != second:
            self._forget(now_s)
            self._seconds.append(_Second(second))
        self._seconds[-1].tokens += tokens
        self._seconds[-1].generation_s += generations * step_s

    def tokens_per_s(self, now_s: float) -> float | None:
        """Return the mean; None = nothing decoded in the last minute."""
        self._forget(now_s)
        generation_s = sum(second.generation_s for second in self._seconds)
        return sum(second.tokens for second in self._seconds) / generation_s if generation_s else None

    def _forget(self, now_s: float) -> None:
        while self._seconds and self._seconds[0].second < now_s - _WINDOW_S:
            self._seconds.popleft()
