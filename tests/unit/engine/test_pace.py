from __future__ import annotations

import pytest

from qwire.engine.pace import Pace


def test_little_says_nothing() -> None:
    pace = Pace(max_step_tokens=8)
    assert (pace.prefill_tokens_per_s(0), pace.place_s(0)) == (None, None)
    for _ in range(7):
        pace.record(0.5, 0.1, tokens=8, running=2, departures=1)
    assert (pace.prefill_tokens_per_s(1), pace.place_s(1)) == (None, None)


def test_prompts_are_as_fast_as_the_fastest_full_step() -> None:
    pace = Pace(max_step_tokens=8)
    for step_s in (0.4, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4):
        pace.record(0.5, step_s, tokens=8, running=1, departures=0)
        pace.record(0.5, 0.1, tokens=1, running=1, departures=0)
    assert pace.prefill_tokens_per_s(1) == pytest.approx(40)


def test_a_place_is_kept_as_long_as_all_places_together_per_departure() -> None:
    pace = Pace(max_step_tokens=8)
    for _ in range(10):
        pace.record(0.5, 0.1, tokens=4, running=4, departures=1)
    assert pace.place_s(1) == pytest.approx(0.4)


def test_a_minute_is_remembered() -> None:
    pace = Pace(max_step_tokens=8)
    for _ in range(8):
        pace.record(10.5, 0.1, tokens=8, running=1, departures=1)
    assert pace.place_s(69) == pytest.approx(0.1)
    assert (pace.prefill_tokens_per_s(71), pace.place_s(71)) == (None, None)
