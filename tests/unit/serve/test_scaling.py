"""What replicas tell reaches the policy through Serve's context, and its answer is what Serve gets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from qwire.serve.app import build
from qwire.serve.config import AppConfig, GatewaySettings, ReplicaSettings
from qwire.serve.demand import ReplicaLoad
from qwire.serve.scaling import GatewayScaling, ModelScaling

SETTINGS = ReplicaSettings(min_replicas=0, max_replicas=5, target_tokens=100, upscale_delay_s=0, downscale_delay_s=0)
BUSY = ReplicaLoad(requests=2, tokens=150)


def context(reports: dict[str, dict[str, float]], *, target: int) -> Any:
    """What Serve's controller hands to a policy about these replicas."""
    from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue  # noqa: PLC0415 - only Ray has them
    from ray.serve.config import AutoscalingContext  # noqa: PLC0415 - beside them

    deployment = DeploymentID("d", "a")
    ids = {name: ReplicaID(name, deployment) for name in reports}
    names = {metric for report in reports.values() for metric in report}
    raw = {
        metric: {
            ids[name]: [TimeStampedValue(0.0, 99.0), TimeStampedValue(1.0, report[metric])]
            for name, report in reports.items()
            if metric in report
        }
        for metric in names
    }
    return AutoscalingContext(
        deployment_id=deployment,
        deployment_name="d",
        app_name="a",
        current_num_replicas=len(reports),
        target_num_replicas=target,
        running_replicas=list(ids.values()),
        total_num_requests=0,
        total_queued_requests=0,
        aggregated_metrics=None,
        raw_metrics=raw,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=5,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=10.0,
        config=None,
    )


def scaling() -> ModelScaling:
    return ModelScaling(limits=asdict(SETTINGS.limits), targets=asdict(SETTINGS.targets))


@pytest.mark.parametrize(
    ("reports", "target", "decision"),
    [
        ({"a": BUSY.report()}, 1, 2),
        ({"a": BUSY.report(), "b": BUSY.report()}, 2, 3),
        ({"a": BUSY.report(), "b": {}, "c": {}}, 3, 3),  # two have not told yet
        ({"a": ReplicaLoad(requests=0).report(), "b": ReplicaLoad(requests=0).report()}, 2, 1),
        ({"a": ReplicaLoad(requests=0, tokens=2).report()}, 1, 1),  # the last one stays for its own delay
    ],
)
def test_replicas_follow_their_reports(reports: dict[str, dict[str, float]], target: int, decision: int):
    assert scaling()(context(reports, target=target)) == (decision, {})


def test_gateways_follow_their_open_streams():
    limits = GatewaySettings(max_replicas=4, upscale_delay_s=0).limits
    policy = GatewayScaling(limits=asdict(limits), target_open_streams=10)
    assert policy(context({"a": {"open_streams": 12}, "b": {"open_streams": 13}}, target=2)) == (3, {})
    assert policy(context({"a": {}}, target=1)) == (1, {})


def test_serve_takes_the_application():
    config = AppConfig.model_validate({"models": [{"source": "x", "replicas": {"min_replicas": 0}}]})
    assert build(config)
