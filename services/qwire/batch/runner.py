"""Works on the items of jobs: leases them, has them generated, records what became of them."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from qwire.batch.errors import StoreUnavailable
from qwire.batch.item import Checkpoint, Lease, LeasedItem, Outcome
from qwire.batch.job import ItemState
from qwire.batch.lease_store import LeaseStore
from qwire.batch.window import Window
from qwire.batch.work import Ended, Interrupted, Work, Workshop
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_POLL_S = 0.5
"""How often a runner with nothing to do looks for work, seconds."""
_GATHER_S = 0.01
"""Places that become free within this time are filled by one transaction, seconds."""
_SWEEP_S = 5.0
_RECORD_S = 0.05
"""Outcomes that land within this time share a transaction, seconds."""
_LONGEST_WAIT_S = 60.0
_STORE_WAIT_S = 0.25
"""How long the store is left alone after its first failure, seconds; twice as long after each further one."""
_LONGEST_STORE_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How a runner works.

    Attributes:
        concurrency: Items under way at the most.
        lease_s: How long the store waits for a sign of life, seconds.
        checkpoint_s: How often partial output is kept, seconds.
        open_limit_s: How long a job may stay open, seconds.
    """

    concurrency: int
    lease_s: float
    checkpoint_s: float
    open_limit_s: float


class JobRunner:
    """Keeps engines busy with the items of jobs. Several runners share a store without knowing of each other.

    Where the store is away, what runs goes on, and its outcomes wait; what a lease lost meanwhile is not recorded.

    Args:
        leases: Where items come from and outcomes go.
        workshop: Generates.
        config: How it works.
    """

    def __init__(self, leases: LeaseStore, workshop: Workshop, config: RunnerConfig) -> None:
        self.id = f"runner-{uuid.uuid4().hex}"
        self._leases = leases
        self._workshop = workshop
        self._config = config
        self._window = Window(config.concurrency)
        self._running: dict[Lease, tuple[Work, asyncio.Task[None]]] = {}
        self._outcomes: list[Outcome] = []
        self._landed = asyncio.Event()
        self._changed = asyncio.Event()
        self._duties: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """Items under way."""
        return len(self._running)

    def start(self) -> None:
        """Begin to work."""
        config = self._config
        self._duties = [
            asyncio.create_task(duty)
            for duty in (
                self._fill(),
                self._record(),
                self._repeat(self._renew, config.lease_s / 3),
                self._repeat(self._keep, config.checkpoint_s),
                self._repeat(self._sweep, _SWEEP_S),
            )
        ]

    async def close(self) -> None:
        """Stop at once: what runs is interrupted, keeps its partial output, and goes to others."""
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        checkpoints = self._checkpoints()
        for _, task in self._running.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
        try:
            await self._leases.record(self.id, self._outcomes)
            await self._leases.keep(self.id, checkpoints)
            await self._leases.leave(self.id)
        except StoreUnavailable:
            log.warning("batch_runner_left_without_word", runner=self.id)  # its leases run out

    async def _fill(self) -> None:
        """Lease as much as the window has room for, again and again."""
        await _patiently(self._leases.renew, self.id, ())
        while True:
            self._changed.clear()
            room = self._window.size - len(self._running)
            leased = await self._lease(room) if room > 0 else []
            for item in leased:
                work = self._workshop.begin(item)
                task = asyncio.create_task(self._attempt(item, work))
                self._running[item.lease] = (work, task)
            if room > 0 and len(leased) == room:
                continue
            await _first(self._changed.wait(), asyncio.sleep(_POLL_S))
            await asyncio.sleep(_GATHER_S)

    async def _lease(self, room: int) -> list[LeasedItem]:
        try:
            return await self._leases.lease(self.id, room)
        except StoreUnavailable:
            log.warning("batch_store_unavailable")
        # Maybe it leased, and only its answer was lost: this runner would hold for ever what it does not know of.
        await _patiently(self._release)
        return []

    async def _release(self) -> None:
        await self._leases.release(self.id, {*self._running, *(outcome.lease for outcome in self._outcomes)})

    async def _attempt(self, item: LeasedItem, work: Work) -> None:
        try:
            ended = await work.run(self._taken)
        finally:
            del self._running[item.lease]
            self._changed.set()
        if isinstance(ended, Interrupted) and ended.overloaded:
            self._window.shrink()
        self._outcomes.append(outcome_of(item, work, ended))
        self._landed.set()

    def _taken(self) -> None:
        self._window.grow()
        self._changed.set()

    async def _record(self) -> None:
        while True:
            await self._landed.wait()
            await asyncio.sleep(_RECORD_S)
            self._landed.clear()
            outcomes = self._outcomes[:]
            lost = await _patiently(self._leases.record, self.id, outcomes)
            del self._outcomes[: len(outcomes)]
            if lost:
                log.info("batch_outcomes_not_recorded", runner=self.id, items=len(lost))

    async def _renew(self) -> None:
        for lease in await self._leases.renew(self.id, list(self._running)):
            if lease in self._running:  # else it landed meanwhile
                self._running[lease][1].cancel()

    async def _keep(self) -> None:
        await self._leases.keep(self.id, self._checkpoints())

    async def _sweep(self) -> None:
        await self._leases.sweep(int(self._config.open_limit_s * 1e9))

    def _checkpoints(self) -> list[Checkpoint]:
        parts = ((lease, work.partial()) for lease, (work, _) in self._running.items())
        return [Checkpoint(lease, partial) for lease, partial in parts if partial]

    async def _repeat(self, duty: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            # Runners that were started together do not come together for ever.
            await asyncio.sleep(every_s * random.uniform(0.8, 1.0))  # noqa: S311 - not a secret
            await _patiently(duty)


async def _patiently(ask: Callable[_P, Awaitable[_T]], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Ask the store until it answers, ever less often."""
    wait_s = _STORE_WAIT_S
    while True:
        try:
            return await ask(*arguments, **options)
        except StoreUnavailable:
            log.warning("batch_store_unavailable")
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
        wait_s = min(2 * wait_s, _LONGEST_STORE_WAIT_S)


def outcome_of(item: LeasedItem, work: Work, ended: Ended | Interrupted) -> Outcome:
    """Return what an attempt means for its item: an outcome, or PENDING for another attempt after a wait."""
    if isinstance(ended, Ended):
        return Outcome(item.lease, ended.state, ended.content, ended.tokens)
    failures = item.failures + ended.failed
    if failures >= item.max_attempts:
        return Outcome(item.lease, ItemState.FAILED, ended.error)
    wait_s = ended.retry_after_s
    if wait_s is None:
        wait_s = min(2.0**failures, _LONGEST_WAIT_S)
    wait_s *= random.uniform(1.0, 1.5)  # noqa: S311 - so that what failed together does not come together
    return Outcome(
        item.lease,
        ItemState.PENDING,
        failed=ended.failed,
        available_ns=time.time_ns() + int(wait_s * 1e9),
        partial=work.partial(),
    )


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of several, and end the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
