"""Whether the models can answer, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from qwire.client.usage import seconds
from qwire.v1 import health_pb2


class ServingState(Enum):
    """Whether something can serve."""

    STARTING = "starting"
    """Not yet: no real token has been generated so far."""

    READY = "ready"
    """Yes."""

    DEGRADED = "degraded"
    """Yes, but a check is beyond its threshold."""

    DRAINING = "draining"
    """No more: open calls finish, new ones are refused."""

    NOT_READY = "not_ready"
    """No: it was ready and is not now."""

    UNKNOWN = "unknown"
    """A state that this version of the client does not know."""

    @property
    def serves(self) -> bool:
        """Whether calls are answered."""
        return self in {ServingState.READY, ServingState.DEGRADED}


class HealthCheckKind(Enum):
    """What a health check looks at, and its unit."""

    RESPONSE_TIME = "response_time"
    """Time from asking for a token to having it, seconds."""

    GENERATION_SPEED = "generation_speed"
    """Output tokens per second of a running generation, over the last minute."""

    MEMORY = "memory"
    """Share of memory in use, 0 to 1."""

    QUEUE = "queue"
    """Share of the waiting queue in use, 0 to 1."""

    WEIGHTS_FINITE = "weights_finite"
    """Weights that are NaN or infinite, a count."""

    UNKNOWN = "unknown"
    """A check that this version of the client does not know."""


_STATES = {
    health_pb2.SERVING_STATE_STARTING: ServingState.STARTING,
    health_pb2.SERVING_STATE_READY: ServingState.READY,
    health_pb2.SERVING_STATE_DEGRADED: ServingState.DEGRADED,
    health_pb2.SERVING_STATE_DRAINING: ServingState.DRAINING,
    health_pb2.SERVING_STATE_NOT_READY: ServingState.NOT_READY,
}
_KINDS = {
    health_pb2.HEALTH_CHECK_KIND_RESPONSE_TIME: HealthCheckKind.RESPONSE_TIME,
    health_pb2.HEALTH_CHECK_KIND_GENERATION_SPEED: HealthCheckKind.GENERATION_SPEED,
    health_pb2.HEALTH_CHECK_KIND_MEMORY: HealthCheckKind.MEMORY,
    health_pb2.HEALTH_CHECK_KIND_QUEUE: HealthCheckKind.QUEUE,
    health_pb2.HEALTH_CHECK_KIND_WEIGHTS_FINITE: HealthCheckKind.WEIGHTS_FINITE,
}


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check.

    Attributes:
        kind: What was looked at.
        state: READY within the threshold, DEGRADED or NOT_READY beyond it, STARTING while there is nothing to measure.
        measured: What was measured, in the unit of the kind; None = nothing to measure yet.
        threshold: Where trouble begins: above it, or below it for GENERATION_SPEED.
        advice: What an operator can do; empty = nothing needs doing.
    """

    kind: HealthCheckKind
    state: ServingState
    measured: float | None
    threshold: float
    advice: str

    @classmethod
    def from_proto(cls, proto: health_pb2.HealthCheck) -> HealthCheck:
        """Convert the message."""
        return cls(
            kind=_KINDS.get(proto.kind, HealthCheckKind.UNKNOWN),
            state=_STATES.get(proto.state, ServingState.UNKNOWN),
            measured=proto.measured if proto.HasField("measured") else None,
            threshold=proto.threshold,
            advice=proto.advice,
        )


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """The state of one model.

    Attributes:
        model: Its id.
        state: The worst that its checks allow.
        checks: Every check, one per kind.
        last_token_at: When a real token last came from it; None = never so far.
    """

    model: str
    state: ServingState
    checks: tuple[HealthCheck, ...]
    last_token_at: datetime | None

    @classmethod
    def from_proto(cls, proto: health_pb2.ModelServingState) -> ModelHealth:
        """Convert the message."""
        return cls(
            model=proto.model,
            state=_STATES.get(proto.state, ServingState.UNKNOWN),
            checks=tuple(map(HealthCheck.from_proto, proto.checks)),
            last_token_at=proto.last_token_time.ToDatetime(tzinfo=UTC) if proto.HasField("last_token_time") else None,
        )


@dataclass(frozen=True, slots=True)
class Health:
    """The state of everything.

    Attributes:
        state: Of the gateway as a whole: READY when every model is.
        models: Of each model, ordered by id.
        observed_at: When this was judged.
    """

    state: ServingState
    models: tuple[ModelHealth, ...]
    observed_at: datetime

    @classmethod
    def from_proto(cls, proto: health_pb2.ServingStatus) -> Health:
        """Convert the message."""
        return cls(
            state=_STATES.get(proto.state, ServingState.UNKNOWN),
            models=tuple(map(ModelHealth.from_proto, proto.models)),
            observed_at=proto.observed_time.ToDatetime(tzinfo=UTC),
        )


@dataclass(frozen=True, slots=True)
class Probe:
    """A model generated one real token from finite logits.

    Attributes:
        model: The model that was probed.
        token_id: The token.
        response_time_s: Seconds from asking for it to having it.
    """

    model: str
    token_id: int
    response_time_s: float

    @classmethod
    def from_proto(cls, proto: health_pb2.ProbeModelResponse) -> Probe:
        """Convert the message."""
        return cls(proto.model, proto.token_id, seconds(proto.response_time))
