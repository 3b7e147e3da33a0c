"""A line tells growth from noise, and says when it cannot."""

from __future__ import annotations

import math
import random
from dataclasses import asdict
from statistics import fmean

import pytest

from tests.chaos.soak.report import Report
from tests.chaos.soak.trend import Trend, Verdict
from tests.chaos.soak.vitals import Sample

MINUTES = [60.0 * minute for minute in range(25)]
LEVEL = 200e6


def noisy(share_per_hour: float, noise: float, seed: int = 1) -> Trend:
    source = random.Random(seed)  # noqa: S311 - noise, no secret
    values = [LEVEL * (1 + share_per_hour * at / 3600 + source.gauss(0, noise)) for at in MINUTES]
    return Trend.of(MINUTES, values)


def test_an_exact_line_is_found_exactly() -> None:
    trend = Trend.of([0.0, 1800.0, 3600.0], [1.0, 2.0, 3.0])
    assert (trend.slope, trend.margin, trend.level, trend.hours) == (pytest.approx(2.0), 0.0, 2.0, 1.0)
    assert trend.highs == (1.0, 3.0)


@pytest.mark.parametrize(
    ("share_per_hour", "noise", "verdict"),
    [
        (0.0, 0.0005, Verdict.PASS),
        (-0.1, 0.0005, Verdict.PASS),
        (0.05, 0.0005, Verdict.MISS),
        (0.0, 0.05, Verdict.UNDECIDED),
        (0.05, 0.05, Verdict.UNDECIDED),
    ],
)
def test_memory_is_judged_by_its_growth_per_hour(share_per_hour: float, noise: float, verdict: Verdict) -> None:
    assert noisy(share_per_hour, noise).share_verdict(LEVEL, 0.01) is verdict


def test_the_interval_has_the_slope_as_often_as_it_says() -> None:
    inside = [
        abs(noisy(0.02, 0.01, seed).slope / LEVEL - 0.02) <= noisy(0.02, 0.01, seed).margin / LEVEL
        for seed in range(400)
    ]
    assert 0.9 <= fmean(inside) <= 1


def test_samples_that_resemble_each_other_count_for_less() -> None:
    waves = [math.sin(at / 600) for at in MINUTES]
    shuffled = random.Random(2).sample(waves, len(waves))  # noqa: S311 - likewise
    assert Trend.of(MINUTES, waves).margin > 2 * Trend.of(MINUTES, shuffled).margin


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ([40] * 25, Verdict.PASS),
        ([40, 41] * 12, Verdict.PASS),
        ([40 + at // 4 for at in range(25)], Verdict.MISS),
        ([40, 60] * 5, Verdict.PASS),
        ([74] * 12 + [70] * 13, Verdict.PASS),
        ([43] * 6 + [44] * 3 + [45] * 16, Verdict.PASS),
        ([43] * 6 + [44] * 10 + [45] * 9, Verdict.MISS),
        ([40, 60, 40, 60, 40, 60, 40, 61, 40, 62], Verdict.UNDECIDED),
    ],
    ids=[
        "constant",
        "to and fro",
        "one more every four minutes",
        "far to and fro",
        "a step down",
        "steps, then flat",
        "steps",
        "noise",
    ],
)
def test_a_count_must_not_grow_by_one(counts: list[int], verdict: Verdict) -> None:
    assert Trend.of(MINUTES[: len(counts)], counts).count_verdict() is verdict


def sample(at_s: float, anonymous_bytes: float, *, descriptors: int = 40, is_idle: bool = True) -> Sample:
    return Sample(at_s, "gateway", is_idle, int(anonymous_bytes), 3 * int(LEVEL), descriptors, 30, 12, None)


def report(*samples: Sample, failures: dict[str, int] | None = None) -> Report:
    return Report(samples, 120.0, ("gateway",), {"stream": 9}, failures or {})


FLAT = [sample(at, LEVEL) for at in MINUTES]


def test_a_sample_is_read_as_it_was_written() -> None:
    one = sample(60.5, LEVEL, is_idle=False)
    row = {name: "" if value is None else str(value) for name, value in asdict(one).items()}
    assert Sample.of(row) == one


def test_a_quiet_run_passes_whatever_happened_in_its_warm_up_and_under_load() -> None:
    warm_up = [sample(at, LEVEL * at / 120, descriptors=int(at)) for at in (0.0, 60.0)]
    busy = [sample(at + 30, 2 * LEVEL, descriptors=int(at), is_idle=False) for at in MINUTES]
    good = report(*warm_up, *FLAT[2:], *busy)
    assert good.passed
    assert (
        "| gateway | 572 | 190.7 to 190.7 | +0.00 ± 0.00 % | 40 to 40 | 30 to 30 | 12 to 12 |  | PASS |"
        in good.markdown()
    )


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (report(*(sample(at, LEVEL * (1 + at / 3600)) for at in MINUTES)), "MISS (memory)"),
        (report(*(sample(at, LEVEL, descriptors=int(at)) for at in MINUTES)), "MISS (descriptors)"),
        (report(*FLAT, failures={"stream: Unavailable: gone": 1}), "- 1 x stream: Unavailable: gone"),
        (report(*FLAT[:4]), "too few samples"),
    ],
    ids=["memory", "descriptors", "failed call", "too short"],
)
def test_a_run_that_grows_fails_or_shows_nothing_fails(bad: Report, says: str) -> None:
    assert not bad.passed
    assert says in bad.markdown()
    assert bad.markdown().endswith("**failed**")
