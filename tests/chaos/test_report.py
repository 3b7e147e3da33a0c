"""A run is good only where every fault struck, under traffic, and every stream said what it says undisturbed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.load import ASKS, Tally
from tests.chaos.oracle import Verdict
from tests.chaos.report import Report
from tests.chaos.schedule import Strike

STRIKES = (Strike("kill", "process 7 gone", 16, 3.0), Strike("kill", "process 8 gone", 15, 4.0))
GOOD = Report({"kill": 2}, STRIKES, Tally(finished=8, tokens=4800), floor=4)


def test_a_good_run_passes() -> None:
    assert GOOD.problems == []
    assert "| kill | 2 of 2 | 15 | 4.0 s |" in GOOD.markdown()
    assert GOOD.markdown().endswith("**passed**")


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (replace(GOOD, strikes=STRIKES[:1]), "kill: struck 1 times of 2"),
        (replace(GOOD, strikes=(STRIKES[0], replace(STRIKES[1], evidence=""))), "kill: struck 1 times of 2"),
        (replace(GOOD, strikes=(STRIKES[0], replace(STRIKES[1], open_streams=3))), "under 4 open streams"),
        (replace(GOOD, tally=Tally(finished=7)), "7 streams finished, 8 are the floor"),
        (replace(GOOD, tally=Tally(finished=8, failures=["Unavailable: gone"])), "Unavailable: gone"),
        (replace(GOOD, tally=Tally(finished=8, verdicts=[(ASKS[0], Verdict(lost_tokens=1))])), "a stream differs"),
        (replace(GOOD, planned={}, strikes=()), "no fault was planned"),
    ],
    ids=["missing", "did not strike", "no traffic", "under the floor", "failed", "differs", "nothing"],
)
def test_a_run_that_shows_nothing_or_something_bad_fails(report: Report, problem: str) -> None:
    assert any(problem in one for one in report.problems)
    assert report.markdown().endswith("**failed**")
