"""The load of a model's replicas as that of one engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwire.engine.protocol import EngineStats


def together(stats: Sequence[EngineStats]) -> EngineStats:
    """Add up what adds up; where one replica's trouble must show, take the worst."""
    speeds = [one.decode_tokens_per_s for one in stats if one.decode_tokens_per_s is not None]
    fullest = max(stats, key=lambda one: one.memory_used_bytes / max(1, one.memory_total_bytes))
    return replace(
        stats[0],
        steps=sum(one.steps for one in stats),
        running=sum(one.running for one in stats),
        waiting=sum(one.waiting for one in stats),
        waiting_capacity=sum(one.waiting_capacity for one in stats),
        running_tokens=sum(one.running_tokens for one in stats),
        waiting_tokens=sum(one.waiting_tokens for one in stats),
        kv_used_tokens=sum(one.kv_used_tokens for one in stats),
        kv_capacity_tokens=sum(one.kv_capacity_tokens for one in stats),
        oldest_wait_s=max(one.oldest_wait_s for one in stats),
        decode_tokens_per_s=min(speeds) if speeds else None,
        memory_used_bytes=fullest.memory_used_bytes,
        memory_total_bytes=fullest.memory_total_bytes,
        non_finite_weights=max(one.non_finite_weights for one in stats),
        replicas=len(stats),
        drafted_tokens=sum(one.drafted_tokens for one in stats),
        accepted_tokens=sum(one.accepted_tokens for one in stats),
    )


ASLEEP = EngineStats(
    steps=0,
    running=0,
    waiting=0,
    waiting_capacity=0,
    running_tokens=0,
    waiting_tokens=0,
    kv_used_tokens=0,
    kv_capacity_tokens=0,
    oldest_wait_s=0.0,
    decode_tokens_per_s=None,
    memory_used_bytes=0,
    memory_total_bytes=0,
    non_finite_weights=0,
    replicas=0,
)
"""Of a model whose replicas have gone for want of work."""
