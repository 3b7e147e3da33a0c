"""When requests come and how long they are: recorded in a file, or made up."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace.

    Attributes:
        arrival_s: When it comes, seconds from the trace's start.
        prompt_tokens: Its prompt.
        output_tokens: What it generates.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int


def read_arrivals(path: Path) -> list[Arrival]:
    """Read a CSV file with the columns `arrival_s,prompt_tokens,output_tokens`.

    Raises:
        OSError: It cannot be read.
        ValueError: A column is missing, or a value is no number; the text names the line.
    """
    arrivals: list[Arrival] = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                values = float(row["arrival_s"]), int(row["prompt_tokens"]), int(row["output_tokens"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: arrival_s,prompt_tokens,output_tokens expected: {error}") from None
            arrivals.append(Arrival(*values))
    return sorted(arrivals, key=lambda one: one.arrival_s)


Rate = Callable[[float], float]
"""Requests per second at a second of the trace."""


def steady(per_s: float) -> Rate:
    """The same rate always."""
    return lambda _: per_s


def burst(low_per_s: float, high_per_s: float, start_s: float, end_s: float) -> Rate:
    """A low rate with a high one between two moments."""
    return lambda now_s: high_per_s if start_s <= now_s < end_s else low_per_s


def diurnal(low_per_s: float, high_per_s: float, period_s: float) -> Rate:
    """A wave between two rates, from low to low."""
    return lambda now_s: low_per_s + (high_per_s - low_per_s) * (1 - math.cos(2 * math.pi * now_s / period_s)) / 2


def poisson(rate: Rate, seconds: float, prompt_tokens: int, output_tokens: int, seed: int = 1) -> list[Arrival]:
    """Draw arrivals that know nothing of each other, their lengths exponential around the given means.

    By thinning (Lewis and Shedler 1979), in steps of the rate's maximum over the trace.
    """
    chance = random.Random(seed)  # noqa: S311 - a load, not a secret
    most = max(rate(second) for second in range(math.ceil(seconds)))
    arrivals: list[Arrival] = []
    now_s = chance.expovariate(most) if most else seconds
    while now_s < seconds:
        if chance.random() < rate(now_s) / most:
            lengths = (max(1, round(chance.expovariate(1 / mean))) for mean in (prompt_tokens, output_tokens))
            arrivals.append(Arrival(now_s, *lengths))
        now_s += chance.expovariate(most)
    return arrivals
