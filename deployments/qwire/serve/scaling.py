"""The autoscaling policies as Serve's controller calls them: what replicas tell in, how many shall run out.

Serve adds nothing of its own around them: its delays are set to zero (`qwire.serve.app`). One thing it does alone:
where no replica runs and a gateway has a request for one, it starts the first at once.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

from qwire.serve.autoscaling import AutoscalingPolicy, ScalingLimits
from qwire.serve.demand import LoadTargets, ReplicaLoad, gateway_demand, model_demand

_Decision = tuple[int, dict[str, Any]]


class ModelScaling:
    """Scales the replicas of a model by what `ModelReplica.record_autoscaling_stats` tells.

    Args:
        limits: Fields of `ScalingLimits`.
        targets: Fields of `LoadTargets`.
    """

    def __init__(self, limits: dict[str, Any], targets: dict[str, Any]) -> None:
        self._policy = AutoscalingPolicy(ScalingLimits(**limits))
        self._targets = LoadTargets(**targets)

    def __call__(self, context: AutoscalingContext) -> _Decision:
        """Return how many replicas shall run; no state beside the policy's own."""
        loads = [ReplicaLoad.from_report(report) if report else None for report in _latest(context)]
        return _decide(self._policy, context, model_demand(loads, self._targets))


class GatewayScaling:
    """Scales the gateways by what `Gateway.record_autoscaling_stats` tells.

    Args:
        limits: Fields of `ScalingLimits`.
        target_open_streams: Open streams that one gateway shall carry.
    """

    def __init__(self, limits: dict[str, Any], target_open_streams: float) -> None:
        self._policy = AutoscalingPolicy(ScalingLimits(**limits))
        self._target_open_streams = target_open_streams

    def __call__(self, context: AutoscalingContext) -> _Decision:
        """Return how many gateways shall run."""
        open_streams = sum(report.get("open_streams", 0.0) for report in _latest(context))
        return _decide(self._policy, context, gateway_demand(open_streams, self._target_open_streams))


def _decide(policy: AutoscalingPolicy, context: AutoscalingContext, demand: Any) -> _Decision:
    running, target = context.current_num_replicas, context.target_num_replicas
    return policy.decide(context.current_time or 0.0, target, running, demand), {}


def _latest(context: AutoscalingContext) -> list[dict[str, float]]:
    """Return the latest report of each running replica; empty where there is none yet."""
    metrics = context.raw_metrics or {}
    return [
        {name: series[replica][-1].value for name, series in metrics.items() if series.get(replica)}
        for replica in context.running_replicas
    ]
