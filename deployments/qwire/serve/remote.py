"""An engine on other machines: the replicas of one model, behind the same protocol as a local one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest
from qwire.engine.protocol import EngineStats, ModelCard
from qwire.engine.request import TokenRequest
from qwire.serve.handle import ReplicaHandle
from qwire.serve.patience import Patience
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

_CONTROL_TIMEOUT_S = 10.0


class RemoteEngine:
    """Spreads requests over the replicas of one model. A generation whose replica is lost goes on at another one.

    Args:
        replicas: The way to them.
        failover_timeout_s: How long a lost generation may look for a replica without getting a token, seconds; 0 = it
            ends with EngineUnavailable at once.
    """

    def __init__(self, replicas: ReplicaHandle, failover_timeout_s: float) -> None:
        self._replicas = replicas
        self._failover_timeout_s = failover_timeout_s
        self._card: ModelCard | None = None

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Generate on the replica with the least to do. See `Engine.generate`.

        Where that one is lost, another one is asked to go on from the tokens that came so far. Since a token is a
        function of what is before it, the consumer notices nothing but the time.
        """
        received = _Received(request)
        patience = Patience(self._failover_timeout_s, request.envelope.deadline_unix_ns)
        while True:
            try:
                async with aclosing(self._attempt(received.rest(), patience.left_s)) as chunks:
                    async for chunk in chunks:
                        patience.renew()
                        news = received.add(chunk)
                        if news is not None:
                            yield news
                        if chunk.finish is not None:
                            return
            except EngineUnavailable as lost:
                await patience.wait(lost)
                request_id, tokens = request.envelope.request_id, received.output_tokens
                log.warning("generation_goes_on_elsewhere", request_id=request_id, output_tokens=tokens)

    async def _attempt(self, request: TokenRequest, patience_s: float) -> AsyncGenerator[TokenChunk, None]:
        async with aclosing(self._replicas.stream("generate", request)) as chunks:
            try:
                yield await _first(chunks, request.envelope.deadline_unix_ns, patience_s)
            except InvalidRequest as error:
                # Its last replica lives after all, and has not noticed yet that nobody listens there.
                if error.field == "request_id":
                    raise EngineUnavailable from error
                raise
            async for chunk in chunks:
                yield chunk
        raise EngineUnavailable  # it ended without a last chunk

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


class _Received:
    """What came of one generation so far, from whichever replica.

    Args:
        request: The generation.
    """

    def __init__(self, request: TokenRequest) -> None:
        self._request = request
        self._output = list(request.output_token_ids)
        self._told = 0  # prompt tokens, by log-probability
        self._repeated = 0

    @property
    def output_tokens(self) -> int:
        """Output tokens so far, those included that the request came with."""
        return len(self._output)

    def rest(self) -> TokenRequest:
        """Return what another replica is to be asked for."""
        if len(self._output) == len(self._request.output_token_ids):
            self._repeated = self._told
            return self._request
        # All about the prompt comes before the first token.
        return replace(self._request, output_token_ids=tuple(self._output), prompt_logprobs=None)

    def add(self, chunk: TokenChunk) -> TokenChunk | None:
        """Return what is new in a chunk; None = nothing."""
        self._output += chunk.token_ids
        if not chunk.prompt_logprobs:
            return chunk
        news = chunk.prompt_logprobs[self._repeated :]
        self._repeated -= len(chunk.prompt_logprobs) - len(news)
        self._told += len(news)
        return replace(chunk, prompt_logprobs=news) if news else None


async def _first(
    chunks: AsyncGenerator[TokenChunk, None], deadline_unix_ns: int | None, patience_s: float
) -> TokenChunk:
    """Wait for the first chunk, within the deadline and the patience: Serve's router waits for a replica for ever."""
    deadline_s = math.inf if deadline_unix_ns is None else (deadline_unix_ns - time.time_ns()) / 1e9
    limit_s = min(deadline_s, patience_s)
    try:
        return await asyncio.wait_for(anext(chunks), None if limit_s == math.inf else limit_s)
    except StopAsyncIteration:
        raise EngineUnavailable from None
    except TimeoutError:
        raise DeadlineExceeded if deadline_s <= patience_s else EngineUnavailable from None


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
