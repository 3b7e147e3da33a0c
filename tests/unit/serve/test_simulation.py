"""The simulated fleet does what a load makes one do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwire.serve.arrivals import Arrival, burst, diurnal, poisson, read_arrivals, steady
from qwire.serve.autoscaling import ScalingLimits
from qwire.serve.demand import LoadTargets
from qwire.serve.simulation import ReplicaSpeed, Simulation, simulate

SPEED = ReplicaSpeed(
    start_s=5,
    prefill_tokens_per_s=1000,
    step_s=0.02,
    step_s_per_generation=0.002,
    max_running=4,
    kv_capacity_tokens=10_000,
)
LIMITS = ScalingLimits(1, 4, upscale_delay_s=2, downscale_delay_s=20, scale_to_zero_delay_s=30)
TARGETS = LoadTargets(tokens=600, queue_wait_s=2, kv_use=0.8, min_decode_tokens_per_s=0)


def longest_wait(result: Simulation) -> float:
    return max(wait for _, wait in result.queue_waits)


def test_one_request_takes_as_long_as_its_tokens():
    once = [Arrival(1.0, prompt_tokens=100, output_tokens=50)]
    result = simulate(once, SPEED, LIMITS, TARGETS, seconds=10)
    assert [wait for _, wait in result.queue_waits] == [pytest.approx(0, abs=0.06)]
    assert set(result.replicas) == {1}
    assert result.replica_s == pytest.approx(10)


def test_replicas_on_one_machine_share_its_speed():
    two = [Arrival(0.0, prompt_tokens=1000, output_tokens=1), Arrival(0.0, prompt_tokens=1000, output_tokens=1)]
    limits = replace(LIMITS, min_replicas=2)
    own, shared, roomy = (
        simulate(two, SPEED, limits, TARGETS, seconds=5, full_speed_replicas=most).first_tokens for most in (9, 1, 1.5)
    )
    assert [wait for _, wait in own] == [pytest.approx(1, abs=0.11)] * 2
    assert [wait for _, wait in shared] == [pytest.approx(2, abs=0.11)] * 2
    assert [wait for _, wait in roomy] == [pytest.approx(4 / 3, abs=0.11)] * 2


def test_a_burst_brings_replicas_late_and_they_leave_later():
    load = poisson(burst(0.05, 2.0, 20, 60), 200, prompt_tokens=100, output_tokens=200)
    result = simulate(load, SPEED, LIMITS, TARGETS, seconds=200)
    at = dict(zip([round(time_s) for time_s in result.times_s], result.replicas, strict=True))
    assert at[20] == 1
    assert max(at[second] for second in range(20, 26)) == 1  # a start takes five seconds and the delay two
    assert max(at.values()) > 2
    assert at[199] == 1
    assert len(result.queue_waits) == len(load)


def test_more_replicas_cost_more_and_wait_less():
    load = poisson(steady(1.5), 120, prompt_tokens=100, output_tokens=200)
    one, four = (simulate(load, SPEED, replace(LIMITS, max_replicas=most), TARGETS, seconds=120) for most in (1, 4))
    assert four.replica_s > one.replica_s
    assert longest_wait(four) < longest_wait(one)


def test_from_none_to_one_and_back():
    limits = replace(LIMITS, min_replicas=0)
    result = simulate([Arrival(10, 10, 10)], SPEED, limits, TARGETS, seconds=80)
    assert longest_wait(result) == pytest.approx(SPEED.start_s, abs=1)
    assert (result.replicas[0], max(result.replicas), result.replicas[-1]) == (0, 1, 0)


def test_a_wave_is_low_at_its_ends_and_high_between():
    rate = diurnal(1, 5, 100)
    assert [rate(now_s) for now_s in (0, 50, 100)] == [pytest.approx(value) for value in (1, 5, 1)]


def test_a_trace_comes_from_a_file(tmp_path: Path):
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n2.5,10,20\n0.5,1,2\n")
    assert read_arrivals(file) == [Arrival(0.5, 1, 2), Arrival(2.5, 10, 20)]
    file.write_text("arrival_s,prompt_tokens\n2.5,10\n")
    with pytest.raises(ValueError, match=r"trace\.csv:2: .*output_tokens"):
        read_arrivals(file)
