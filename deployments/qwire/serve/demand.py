"""How many replicas a load needs: tokens, queue wait, KV cache and speed against their targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from qwire.engine.protocol import EngineStats
from qwire.serve.autoscaling import Demand

_SLACK = 0.7
"""Replicas are taken away only where the rest would be filled to this share of the targets, or less."""


@dataclass(frozen=True, slots=True)
class LoadTargets:
    """What one replica of a model shall carry.

    Attributes:
        tokens: Tokens of its running generations, and of its waiting ones up to their output limits.
        queue_wait_s: More replicas are needed where a generation waits longer than this, seconds.
        kv_use: Share of its KV cache in use, in (0, 1].
        min_decode_tokens_per_s: More replicas are needed where one generation decodes slower than this; 0 = any speed.
    """

    tokens: float
    queue_wait_s: float
    kv_use: float
    min_decode_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica carries.

    Attributes:
        requests: Generations that callers asked for, running or waiting; probes do not count.
        tokens: As in `LoadTargets`.
        queue_wait_s: The longest wait of a generation in the queue, seconds.
        kv_use: Share of its KV cache in use.
        decode_tokens_per_s: Speed of one generation; None = unknown.
    """

    requests: float
    tokens: float = 0.0
    queue_wait_s: float = 0.0
    kv_use: float = 0.0
    decode_tokens_per_s: float | None = None

    @classmethod
    def of(cls, stats: EngineStats, requests: int) -> Self:
        """Return the load of an engine with this many generations of callers."""
        return cls(
            requests=requests,
            tokens=stats.running_tokens + stats.waiting_tokens,
            queue_wait_s=stats.oldest_wait_s,
            kv_use=stats.kv_used_tokens / stats.kv_capacity_tokens if stats.kv_capacity_tokens else 0.0,
            decode_tokens_per_s=stats.decode_tokens_per_s,
        )

    def report(self) -> dict[str, float]:
        """Return it as numbers by name, without what is unknown."""
        known = {
            "requests": self.requests,
            "tokens": self.tokens,
            "queue_wait_s": self.queue_wait_s,
            "kv_use": self.kv_use,
        }
        if self.decode_tokens_per_s is not None:
            known["decode_tokens_per_s"] = self.decode_tokens_per_s
        return known

    @classmethod
    def from_report(cls, report: Mapping[str, float]) -> Self:
        """Return what `report` gave."""
        return cls(**report)


def model_demand(loads: Sequence[ReplicaLoad | None], targets: LoadTargets) -> Demand:
    """Return what a model needs.

    Tokens and KV cache say how many replicas at once. A long wait or a slow decode says only that one more is needed:
    those who wait already stay where they are, so the signal outlasts its cure and must not be multiplied.

    Args:
        loads: Of each running replica; None = it has not told yet.
        targets: What each one shall carry.
    """
    known = [load for load in loads if load is not None]
    running = len(loads)
    if len(known) == running and not any(load.requests for load in known):
        return Demand(0, 0)
    filled = max(
        sum(load.tokens for load in known) / targets.tokens,
        sum(load.kv_use for load in known) / targets.kv_use,
    )
    least, enough = max(1, math.ceil(filled)), max(1, math.ceil(filled / _SLACK))
    if any(_suffers(load, targets) for load in known):
        least = max(least, running + 1)
    elif len(known) == running:
        return Demand(least, enough)
    return Demand(least, max(enough, least, running))


def gateway_demand(open_streams: float, target_open_streams: float) -> Demand:
    """Return how many gateways this many open streams need."""
    filled = open_streams / target_open_streams
    return Demand(max(1, math.ceil(filled)), max(1, math.ceil(filled / _SLACK)))


def _suffers(load: ReplicaLoad, targets: LoadTargets) -> bool:
    speed = load.decode_tokens_per_s
    slow = speed is not None and speed < targets.min_decode_tokens_per_s
    return load.requests > 0 and (slow or load.queue_wait_s > targets.queue_wait_s)
