"""An engine on other machines: the replicas of one model, behind the same protocol as a local one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import DeadlineExceeded, EngineUnavailable
from qwire.engine.protocol import EngineStats, ModelCard
from qwire.engine.request import TokenRequest
from qwire.serve.handle import ReplicaHandle

_CONTROL_TIMEOUT_S = 10.0


class RemoteEngine:
    """Spreads requests over the replicas of one model.

    Args:
        replicas: The way to them.
    """

    def __init__(self, replicas: ReplicaHandle) -> None:
        self._replicas = replicas
        self._card: ModelCard | None = None

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Generate on the replica with the least to do. See `Engine.generate`."""
        async with aclosing(self._replicas.stream("generate", request)) as chunks:
            yield await _first(chunks, request.envelope.deadline_unix_ns)
            async for chunk in chunks:
                yield chunk

    async def cancel(self, request_id: str) -> bool:
        """Cancel on whichever replica runs it.

        Raises:
            EngineUnavailable: No replica had it, but not every replica answered.
        """
        answers = await self._replicas.broadcast("cancel", request_id, timeout_s=_CONTROL_TIMEOUT_S)
        if answers.missing and not any(answers.values):
            raise EngineUnavailable
        return any(answers.values)

    async def card(self) -> ModelCard:
        """Return what the model is; the same on every replica, so one answer is kept."""
        card = self._card
        if card is None:
            card = self._card = (await self._replicas.broadcast("card", timeout_s=_CONTROL_TIMEOUT_S)).values[0]
        return card

    async def stats(self) -> EngineStats:
        """Return the load of all replicas that answer, together; one that dies does not speak for the others."""
        return _together((await self._replicas.broadcast("stats", timeout_s=_CONTROL_TIMEOUT_S)).values)

    async def close(self) -> None:
        """Nothing to do: Serve owns the replicas."""


async def _first(chunks: AsyncGenerator[TokenChunk, None], deadline_unix_ns: int | None) -> TokenChunk:
    """Wait for the first chunk, not beyond the deadline: Serve's router itself waits for a replica without limit."""
    if deadline_unix_ns is None:
        return await anext(chunks)
    try:
        return await asyncio.wait_for(anext(chunks), (deadline_unix_ns - time.time_ns()) / 1e9)
    except TimeoutError:
        raise DeadlineExceeded from None


def _together(stats: Sequence[EngineStats]) -> EngineStats:
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
    )
