"""The signs of life of one model."""

from __future__ import annotations

import statistics
import time
from collections import deque

_RESPONSE_TIMES = 8


class ModelPulse:
    """When a model last gave a token, and how long it lately took to give its first one.

    Real generations count as much as probes: a model that answers callers needs no probing.
    """

    def __init__(self) -> None:
        self.last_token_unix_ns: int | None = None
        self._response_times_s: deque[float] = deque(maxlen=_RESPONSE_TIMES)

    def beat(self) -> None:
        """A token came."""
        self.last_token_unix_ns = time.time_ns()

    def answered(self, response_time_s: float) -> None:
        """The first token of a generation came this long after it was asked for, seconds."""
        self._response_times_s.append(response_time_s)

    @property
    def response_time_s(self) -> float | None:
        """Median of the latest times to a first token, so that one long prompt is no alarm. None = none so far."""
        return statistics.median(self._response_times_s) if self._response_times_s else None

    def is_fresh(self, age_s: float) -> bool:
        """Whether a token came within the last `age_s` seconds."""
        return self.last_token_unix_ns is not None and time.time_ns() - self.last_token_unix_ns < age_s * 1e9
