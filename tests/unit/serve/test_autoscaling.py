"""The number of replicas follows the demand within its limits, late enough not to flap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwire.serve.autoscaling import AutoscalingPolicy, Demand, ScalingLimits

LIMITS = ScalingLimits(
    min_replicas=0, max_replicas=8, upscale_delay_s=10, downscale_delay_s=60, scale_to_zero_delay_s=300
)


def run(policy: AutoscalingPolicy, target: int, demand: Demand, times: list[float]) -> list[int]:
    """What it decides at each time, where every replica that shall run does."""
    decisions: list[int] = []
    for now_s in times:
        target = policy.decide(now_s, target, target, demand)
        decisions.append(target)
    return decisions


def test_replicas_are_added_once_the_need_has_lasted():
    assert run(AutoscalingPolicy(LIMITS), 1, Demand(3, 4), [0, 5, 9.9, 10, 20]) == [1, 1, 1, 3, 3]


def test_a_need_that_passes_adds_nothing():
    policy = AutoscalingPolicy(LIMITS)
    assert run(policy, 1, Demand(3, 4), [0, 9]) == [1, 1]
    assert run(policy, 1, Demand(1, 1), [10]) == [1]
    assert run(policy, 1, Demand(3, 4), [11, 20]) == [1, 1]


def test_replicas_leave_late_and_the_last_one_later():
    assert run(AutoscalingPolicy(LIMITS), 3, Demand(0, 0), [0, 59, 60, 61, 360, 361]) == [3, 3, 1, 1, 1, 0]


def test_what_the_load_needed_meanwhile_stays():
    policy = AutoscalingPolicy(LIMITS)
    assert run(policy, 7, Demand(1, 2), [0]) == [7]
    assert run(policy, 7, Demand(3, 4), [30]) == [7]
    assert run(policy, 7, Demand(0, 0), [59, 60]) == [7, 4]


def test_a_load_between_least_and_enough_changes_nothing():
    assert run(AutoscalingPolicy(LIMITS), 3, Demand(2, 3), [0, 1000]) == [3, 3]


def test_from_zero_there_is_no_delay():
    assert run(AutoscalingPolicy(LIMITS), 0, Demand(1, 1), [0]) == [1]


def test_nothing_is_taken_away_while_something_starts():
    policy = AutoscalingPolicy(LIMITS)
    assert [policy.decide(now_s, 2, 1, Demand(0, 0)) for now_s in (0, 100, 1000)] == [2, 2, 2]


@pytest.mark.parametrize(("demand", "bound"), [(Demand(20, 20), 4), (Demand(0, 0), 2)])
def test_bounds_hold(demand: Demand, bound: int):
    policy = AutoscalingPolicy(replace(LIMITS, min_replicas=2, max_replicas=4))
    assert run(policy, 3, demand, [0, 1000])[-1] == bound
