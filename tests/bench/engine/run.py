"""What a side did in one run, and the figures of several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.engine.workload import Workload


class LostTokens(Exception):
    """A side answered with fewer or more tokens than it was asked for."""


@dataclass(frozen=True, slots=True)
class Run:
    """One side, one workload, once.

    Attributes:
        tokens_per_s: Output tokens of all requests over the time until the last one, prefill included.
        ttft_s: Time to first token of each request, from its arrival.
        tpot_s: Time per output token of each request, after its first.
    """

    tokens_per_s: float
    ttft_s: list[float]
    tpot_s: list[float]

    @classmethod
    def of(cls, workload: Workload, answer: dict[str, Any]) -> Run:
        """Read a side's answer.

        Args:
            workload: What was asked.
            answer: `seconds` of the run and, for each of `requests` in order, when each token came.

        Raises:
            LostTokens: The answer is not of the lengths asked for.
        """
        times = [request["times_s"] for request in answer["requests"]]
        if [len(own) for own in times] != [request.tokens for request in workload.requests]:
            raise LostTokens(f"asked for {[r.tokens for r in workload.requests]}, got {[len(own) for own in times]}")
        return cls(
            sum(map(len, times)) / answer["seconds"],
            [own[0] - request.at_s for own, request in zip(times, workload.requests, strict=True)],
            [(own[-1] - own[0]) / (len(own) - 1) for own in times if len(own) > 1],
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over rounds, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int = 1) -> str:
        """Return it as a table has it."""
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Figures:
    """What the rounds of one side and workload say; each is a spread over the rounds.

    Attributes:
        tokens_per_s: See `Run`.
        ratio: Its tokens_per_s over those of the group's first side, round by round.
        ttft_mean_s: Mean over the requests.
        ttft_p50_s: Median over the requests.
        ttft_p95_s: 95th percentile over the requests.
        tpot_p50_s: As above.
        tpot_p95_s: As above.
    """

    tokens_per_s: Spread
    ratio: Spread
    ttft_mean_s: Spread
    ttft_p50_s: Spread
    ttft_p95_s: Spread
    tpot_p50_s: Spread
    tpot_p95_s: Spread

    @classmethod
    def of(cls, runs: Sequence[Run], first: Sequence[Run]) -> Figures:
        """Compare the runs of a side with those of the group's first side, each with the one of its round."""
        return cls(
            Spread.of([run.tokens_per_s for run in runs]),
            Spread.of([run.tokens_per_s / other.tokens_per_s for run, other in zip(runs, first, strict=True)]),
            Spread.of([statistics.fmean(run.ttft_s) for run in runs]),
            Spread.of([percentile(run.ttft_s, 50) for run in runs]),
            Spread.of([percentile(run.ttft_s, 95) for run in runs]),
            Spread.of([percentile(run.tpot_s, 50) for run in runs]),
            Spread.of([percentile(run.tpot_s, 95) for run in runs]),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the percentile of at least one value, linear between the two neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
