"""Judges a model: each measured value against its threshold, and what an operator can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from qwire.engine.protocol import EngineStats
from qwire.rpc.config import HealthConfig
from qwire.v1 import health_pb2 as pb

_SLOW_ANSWER = "Requests wait too long for their first token: add replicas or lower max_running."
_NO_ANSWER = "The model gives no tokens: look at its replica's log; it is restarted when it does not recover."
_SLOW_DECODE = "Generations are slow: lower max_running, use a stronger quantization, or a faster device."
_MEMORY = "Memory is nearly full: lower kv_capacity_tokens or max_running, or give the replica more memory."
_QUEUE = "The waiting queue is nearly full and callers will be refused: add replicas."
_WEIGHTS = "The weights are damaged: delete the model from the cache and load it again."


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a model at one moment.

    Attributes:
        failing: The latest attempt to get a token or a look at the load failed.
        last_token_unix_ns: When a token last came; None = never.
        response_time_s: Time to a first token, lately; None = unknown.
        stats: Its load; None = unknown.
    """

    failing: bool = False
    last_token_unix_ns: int | None = None
    response_time_s: float | None = None
    stats: EngineStats | None = None


def judge(model_id: str, evidence: Evidence, config: HealthConfig) -> pb.ModelServingState:
    """Return the state of a model with all its checks."""
    checks = _checks(evidence, config)
    state = pb.ModelServingState(model=model_id, state=_state(evidence, checks), checks=checks)
    if evidence.last_token_unix_ns is not None:
        state.last_token_time.FromNanoseconds(evidence.last_token_unix_ns)
    return state


def overall(models: Sequence[pb.ModelServingState]) -> pb.ServingState.ValueType:
    """Return the state of a gateway: READY when every model is; serving as long as any model is."""
    states = {model.state for model in models}
    if states == {pb.SERVING_STATE_READY}:
        return pb.SERVING_STATE_READY
    if states & {pb.SERVING_STATE_READY, pb.SERVING_STATE_DEGRADED}:
        return pb.SERVING_STATE_DEGRADED
    if not states or pb.SERVING_STATE_STARTING in states:
        return pb.SERVING_STATE_STARTING
    return pb.SERVING_STATE_NOT_READY


def serves(state: pb.ServingState.ValueType) -> bool:
    """Whether calls are answered in this state."""
    return state in {pb.SERVING_STATE_READY, pb.SERVING_STATE_DEGRADED}


def now() -> Timestamp:
    """Return the present time."""
    timestamp = Timestamp()
    timestamp.GetCurrentTime()
    return timestamp


def _state(evidence: Evidence, checks: Sequence[pb.HealthCheck]) -> pb.ServingState.ValueType:
    if evidence.last_token_unix_ns is None:
        return pb.SERVING_STATE_STARTING
    states = {check.state for check in checks}
    for state in (pb.SERVING_STATE_NOT_READY, pb.SERVING_STATE_DEGRADED):
        if state in states:
            return state
    return pb.SERVING_STATE_READY


def _checks(evidence: Evidence, config: HealthConfig) -> list[pb.HealthCheck]:
    stats = evidence.stats
    memory = queue = speed = weights = None
    if stats is not None:
        memory = stats.memory_used_bytes / stats.memory_total_bytes if stats.memory_total_bytes else None
        queue = stats.waiting / stats.waiting_capacity if stats.waiting_capacity else None
        speed = stats.decode_tokens_per_s
        weights = float(stats.non_finite_weights)
    response = _check(
        pb.HEALTH_CHECK_KIND_RESPONSE_TIME, evidence.response_time_s, config.max_response_time_s, _SLOW_ANSWER
    )
    if evidence.failing and evidence.last_token_unix_ns is not None:
        response.state = pb.SERVING_STATE_NOT_READY
        response.advice = _NO_ANSWER
    slowest = config.min_generation_tokens_per_s
    return [
        response,
        _check(pb.HEALTH_CHECK_KIND_GENERATION_SPEED, speed, slowest, _SLOW_DECODE, low_is_bad=True),
        _check(pb.HEALTH_CHECK_KIND_MEMORY, memory, config.max_memory_share, _MEMORY),
        _check(pb.HEALTH_CHECK_KIND_QUEUE, queue, config.max_queue_share, _QUEUE),
        _check(pb.HEALTH_CHECK_KIND_WEIGHTS_FINITE, weights, 0.0, _WEIGHTS, beyond=pb.SERVING_STATE_NOT_READY),
    ]


def _check(
    kind: pb.HealthCheckKind.ValueType,
    measured: float | None,
    threshold: float,
    advice: str,
    *,
    low_is_bad: bool = False,
    beyond: pb.ServingState.ValueType = pb.SERVING_STATE_DEGRADED,
) -> pb.HealthCheck:
    if measured is None:
        return pb.HealthCheck(kind=kind, state=pb.SERVING_STATE_STARTING, threshold=threshold)
    if measured < threshold if low_is_bad else measured > threshold:
        return pb.HealthCheck(kind=kind, state=beyond, measured=measured, threshold=threshold, advice=advice)
    return pb.HealthCheck(kind=kind, state=pb.SERVING_STATE_READY, measured=measured, threshold=threshold)
