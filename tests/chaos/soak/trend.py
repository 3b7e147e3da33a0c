"""Whether something grows: a line through samples, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import NormalDist, fmean

_Z = NormalDist().inv_cdf(0.975)


class Verdict(Enum):
    """What a line says of a bound."""

    PASS = "PASS"  # noqa: S105 - no password
    MISS = "MISS"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True)
class Trend:
    """The least-squares line through samples of one quantity.

    Attributes:
        level: The mean.
        slope: Change per hour.
        margin: Half the width of the slope's 95 % confidence interval; infinite where nothing can be said.
        hours: From the first sample to the last.
        highs: The largest value of the first half of the samples, and of the second.
    """

    level: float
    slope: float
    margin: float
    hours: float
    highs: tuple[float, float]

    @classmethod
    def of(cls, times_s: Sequence[float], values: Sequence[float]) -> Trend:
        """Fit it.

        Samples in a row resemble each other, so they tell less than their number: of n samples whose residuals have the
        lag-1 autocorrelation r, n (1 - r) / (1 + r) count (Santer et al. 2000, doi:10.1029/1999JD901105).
        """
        hours = [(at - times_s[0]) / 3600 for at in times_s]
        middle, level = fmean(hours), fmean(values)
        spread = sum((hour - middle) ** 2 for hour in hours)
        slope = sum((h - middle) * (value - level) for h, value in zip(hours, values, strict=True)) / spread
        residuals = [v - level - slope * (hour - middle) for hour, v in zip(hours, values, strict=True)]
        squares = sum(one**2 for one in residuals)
        margin = 0.0
        if squares > 1e-18 * max(1.0, level**2) * len(values):  # else: exactly a line, but for rounding
            pairs = pairwise(residuals)
            likeness = max(0.0, sum(one * other for one, other in pairs) / squares)
            freedom = len(values) * (1 - likeness) / (1 + likeness) - 2
            margin = _student(freedom) * math.sqrt(squares / freedom / spread) if freedom >= 1 else math.inf
        half = len(values) // 2
        return cls(level, slope, margin, hours[-1], (max(values[:half]), max(values[half:])))

    def share_verdict(self, whole: float, limit: float) -> Verdict:
        """Judge growth per hour by its share of a whole."""
        low, high = (self.slope - self.margin) / whole, (self.slope + self.margin) / whole
        if high <= limit:
            return Verdict.PASS
        return Verdict.MISS if low > limit else Verdict.UNDECIDED

    def count_verdict(self) -> Verdict:
        """Judge a count, which must be flat: by the line, it grew by less than one from the first sample to the last.

        Counts change in steps, of which a line says little: it is flat as well where it is never higher in the second
        half than it was in the first, as what goes on growing is.
        """
        low, high = (self.slope - self.margin) * self.hours, (self.slope + self.margin) * self.hours
        if high < 1 or self.highs[1] <= self.highs[0]:
            return Verdict.PASS
        return Verdict.MISS if low > 0 else Verdict.UNDECIDED


def _student(freedom: float) -> float:
    """Return the 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5)."""
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
