from __future__ import annotations

import pytest

from qwire.engine.throughput import DecodeRate


def test_nothing_decoded_has_no_rate() -> None:
    assert DecodeRate().tokens_per_s(0.0) is None


def test_the_rate_is_that_of_one_generation() -> None:
    rate = DecodeRate()
    rate.record(now_s=100.0, step_s=0.1, generations=1, tokens=1)
    assert rate.tokens_per_s(100.0) == pytest.approx(10)
    rate.record(now_s=100.4, step_s=0.4, generations=8, tokens=8)  # a full batch is slower for each
    assert rate.tokens_per_s(100.5) == pytest.approx(9 / 3.3)


def test_a_minute_is_remembered() -> None:
    rate = DecodeRate()
    rate.record(now_s=100.0, step_s=0.1, generations=1, tokens=1)
    rate.record(now_s=130.0, step_s=0.5, generations=1, tokens=1)
    assert rate.tokens_per_s(159.0) == pytest.approx(2 / 0.6)
    assert rate.tokens_per_s(170.0) == pytest.approx(2)
    assert rate.tokens_per_s(200.0) is None


def test_several_tokens_of_one_step_count_each() -> None:
    rate = DecodeRate()
    rate.record(now_s=100.0, step_s=0.2, generations=2, tokens=7)
    assert rate.tokens_per_s(100.0) == pytest.approx(17.5)
