"""What a load needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwire.serve.autoscaling import Demand
from qwire.serve.demand import LoadTargets, ReplicaLoad, gateway_demand, model_demand

TARGETS = LoadTargets(tokens=1000, queue_wait_s=2.0, kv_use=0.8, min_decode_tokens_per_s=5.0)
BUSY = ReplicaLoad(requests=4, tokens=650, queue_wait_s=0.0, kv_use=0.3, decode_tokens_per_s=20.0)
IDLE = ReplicaLoad(requests=0)


def test_nobody_asks():
    assert model_demand([IDLE, IDLE], TARGETS) == Demand(0, 0)
    assert model_demand([], TARGETS) == Demand(0, 0)


def test_a_probe_is_no_load():
    probed = replace(IDLE, tokens=2, kv_use=0.01, queue_wait_s=9.0, decode_tokens_per_s=1.0)
    assert model_demand([probed], TARGETS) == Demand(0, 0)


def test_tokens_say_how_many_at_once():
    assert model_demand([replace(BUSY, tokens=3500)], TARGETS) == Demand(4, 5)


def test_a_full_kv_cache_needs_more():
    assert model_demand([replace(BUSY, kv_use=0.95)] * 2, TARGETS).least == 3


def test_few_requests_keep_one_replica():
    assert model_demand([replace(BUSY, tokens=10)], TARGETS) == Demand(1, 1)


@pytest.mark.parametrize("trouble", [{"queue_wait_s": 2.1}, {"decode_tokens_per_s": 4.9}])
def test_waiting_and_slowness_need_one_more(trouble: dict[str, float]):
    assert model_demand([replace(BUSY, **trouble), BUSY], TARGETS) == Demand(3, 3)


def test_an_unknown_speed_is_not_slow():
    assert model_demand([replace(BUSY, decode_tokens_per_s=None)], TARGETS) == Demand(1, 1)


def test_a_replica_that_has_not_told_yet_is_not_taken_away():
    assert model_demand([BUSY, None, None], TARGETS) == Demand(1, 3)
    assert model_demand([IDLE, None], TARGETS).enough == 2


def test_a_report_brings_everything_known():
    assert ReplicaLoad.from_report(BUSY.report()) == BUSY
    unknown = replace(BUSY, decode_tokens_per_s=None)
    assert ReplicaLoad.from_report(unknown.report()) == unknown


def test_gateways_follow_open_streams():
    assert gateway_demand(0, 100) == Demand(1, 1)
    assert gateway_demand(260, 100) == Demand(3, 4)
