"""An engine on other machines: the replicas of one model, behind the same protocol as a local one."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import chain, count

from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import (
    DeadlineExceeded,
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    QueueFull,
    TakenBack,
)
from qwire.engine.protocol import AdapterInfo, EngineStats, ModelCard
from qwire.engine.request import Envelope, TokenRequest
from qwire.serve.cancellation import Cancellations
from qwire.serve.config import ReplicaSettings
from qwire.serve.fleet import Fleet
from qwire.serve.fleet_stats import ASLEEP, together
from qwire.serve.handle import ReplicaHandle
from qwire.serve.model_version import ModelReplaced
from qwire.serve.patience import Patience
from qwire.serve.received import Received
from qwire.serve.route import Route
from qwire.telemetry import names
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

_CONTROL_TIMEOUT_S = 10.0
_LOOK_S = 1.0  # how often a call that waits looks for new replicas


class RemoteEngine:
    """Spreads requests over the replicas of one model. A generation whose replica is lost goes on at another one.

    Args:
        replicas: The way to them.
        version: The model version that this side tokenizes for; replicas of another one are not asked.
        settings: How long, and how often, a lost generation looks for a replica without getting a token; and whether it
            is no fault when no replica runs, as the next request wakes one.
        recorder: Records lost replicas.
    """

    def __init__(
        self, replicas: ReplicaHandle, version: str, settings: ReplicaSettings, recorder: FailoverRecorder
    ) -> None:
        self._replicas = replicas
        self._version = version
        self._settings = settings
        self._recorder = recorder
        self._card: ModelCard | None = None
        self._fleet = Fleet(replicas, version)
        self._cancellations = Cancellations(replicas)

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Generate on the replica with the least to do. See `Engine.generate`.

        Where that one is lost, another one is asked to go on from the tokens that came so far. Since a token is a
        function of what is before it, the consumer notices nothing but the time. Where only another version of the
        model runs by then, it ends with ModelReplaced instead.

        Where replicas are added while it waits for its turn, it may take its place at one of them.
        """
        with self._cancellations.live(request.envelope.request_id):
            async with aclosing(self._go_on(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _go_on(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        received = Received(request)
        envelope, settings = request.envelope, self._settings
        patience = Patience(
            settings.failover_timeout_s,
            settings.failover_attempts,
            settings.failover_losses,
            envelope.deadline_unix_ns,
        )
        left: frozenset[str] = frozenset()
        for number in count(1):
            route = Route(lost=patience.lost_replicas | left)
            self._cancellations.looks(envelope.request_id)
            try:
                with self._recorder.attempt(envelope, number, received.output_token_ids, EngineUnavailable, route):
                    async with aclosing(self._attempt(received.rest(), route, patience)) as chunks:
                        async for chunk in chunks:
                            self._cancellations.goes_on(envelope.request_id)
                            patience.renew()
                            news = received.add(chunk)
                            if news is not None:
                                yield news
                            if chunk.finish is not None:
                                return
                received.admit()
                left = frozenset({route.replica})
                log.info("generation_waits_elsewhere", request_id=envelope.request_id, left=route.replica)
            except ModelReplaced:
                raise  # another model would go on with another text
            except EngineUnavailable as lost:
                self._cancellations.looks(envelope.request_id)
                await self._wait(patience, lost, route, envelope)
                request_id, tokens = envelope.request_id, len(received.output_token_ids)
                log.warning(
                    "generation_goes_on_elsewhere", request_id=request_id, output_tokens=tokens, lost=route.replica
                )

    async def _wait(self, patience: Patience, lost: EngineUnavailable, route: Route, envelope: Envelope) -> None:
        try:
            await patience.wait(lost, route.replica)
        except EngineError:
            self._recorder.failover(envelope, names.GIVEN_UP)
            raise
        self._recorder.failover(envelope, names.ELSEWHERE)

    async def _attempt(
        self, request: TokenRequest, route: Route, patience: Patience
    ) -> AsyncGenerator[TokenChunk, None]:
        """Yield what a replica says, up to its last chunk; nothing where the call leaves it for a new one."""
        call = self._replicas.stream("generate", request, self._version, route, is_last=_is_last)
        async with aclosing(call) as chunks:
            try:
                first = await self._first(chunks, request.envelope, route, patience)
                if first is None:
                    return
                yield first
            except InvalidRequest as error:
                # Its last replica lives after all, and has not noticed yet that nobody listens there.
                if error.field == "request_id":
                    raise EngineUnavailable from error
                raise
            except QueueFull as error:
                # No engine's queue refuses what goes on. But Serve does where all replicas have as many calls as they
                # may, and where too many wait for adapters. No replica is lost by that.
                if request.envelope.admitted:
                    route.replica = ""
                    raise EngineUnavailable(error.retry_after_s) from error
                raise
            async for chunk in chunks:
                yield chunk
        raise EngineUnavailable  # it ended without a last chunk

    async def _first(
        self, chunks: AsyncGenerator[TokenChunk, None], envelope: Envelope, route: Route, patience: Patience
    ) -> TokenChunk | None:
        """Wait for the first chunk, within the deadline; and within the patience while no replica has taken the call.

        Serve's router waits for a replica for ever. One that took the call may let it wait for its turn.

        Returns:
            The chunk; None = there are new replicas, and this call is one of those that go there.
        """
        first = asyncio.ensure_future(anext(chunks))
        looked_at = time.monotonic()
        try:
            while not first.done():
                self._cancellations.looks(envelope.request_id)
                deadline_s = _left_s(envelope.deadline_unix_ns)
                left_s = deadline_s if route.replica else min(deadline_s, patience.left_s)
                if left_s <= 0:
                    raise DeadlineExceeded if deadline_s <= 0 else EngineUnavailable
                await asyncio.wait((first,), timeout=min(left_s, _LOOK_S))
                if route.replica and not first.done():
                    patience.found()
                    self._fleet.look()
                    share, looked_at = self._fleet.new_share(looked_at), time.monotonic()
                    if random.random() < share:  # noqa: S311 - no secret
                        self._cancellations.take_back(envelope.request_id)
            return await first
        except TakenBack:
            return None
        except StopAsyncIteration:
            raise EngineUnavailable from None
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    async def cancel(self, request_id: str, *, only_waiting: bool = False) -> bool:
        """Cancel on whichever replica runs it; one that looks for a replica is cancelled here.

        Raises:
            EngineUnavailable: No replica had it, but not every replica answered.
        """
        return await self._cancellations.cancel(request_id, only_waiting=only_waiting)

    async def card(self) -> ModelCard:
        """Return what the model is; the same on every replica of a version, so one answer is kept."""
        if self._card is None:
            self._card = await self._ask_for_card()
        return self._card

    async def _ask_for_card(self) -> ModelCard:
        try:
            return (await self._replicas.broadcast("card", self._version, timeout_s=_CONTROL_TIMEOUT_S)).values[0]
        except EngineUnavailable:
            if not self._settings.min_replicas == 0:
                raise
        return await self._replicas.call("card", self._version, timeout_s=_CONTROL_TIMEOUT_S)  # wakes one

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the adapters of all replicas that answer; of one that several have, what a replica with it says."""
        answers = await self._replicas.broadcast("adapters", timeout_s=_CONTROL_TIMEOUT_S)
        infos: dict[str, AdapterInfo] = {}
        for info in chain.from_iterable(answers.values):
            if info.loaded or info.adapter_id not in infos:
                infos[info.adapter_id] = info
        return tuple(infos[adapter_id] for adapter_id in sorted(infos))

    async def stats(self) -> EngineStats:
        """Return the load of all replicas that answer, together; one that dies does not speak for the others."""
        try:
            return together((await self._replicas.broadcast("stats", timeout_s=_CONTROL_TIMEOUT_S)).values)
        except EngineUnavailable:
            if self._settings.min_replicas == 0 and await self._replicas.can_start():
                return ASLEEP
            raise

    async def close(self) -> None:
        """Stop looking for replicas; Serve owns them."""
        await self._cancellations.close()
        await self._fleet.close()


def _is_last(chunk: TokenChunk) -> bool:
    return chunk.finish is not None


def _left_s(deadline_unix_ns: int | None) -> float:
    return math.inf if deadline_unix_ns is None else (deadline_unix_ns - time.time_ns()) / 1e9
