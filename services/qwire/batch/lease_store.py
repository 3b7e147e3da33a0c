"""The items of jobs, as runners take and return them.

A runner leases items, and renews its leases by one sign of life for all of them. Who is silent for too long loses what
it holds to others. Whether it lives or not, only the holder of an item's last lease can record what became of it.

Signs of life are compared with the clock of whoever looks: clocks may differ by less than a lease lasts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import and_, delete, exists, insert, or_, select, update

from qwire.batch.database import Database
from qwire.batch.ending import end_job
from qwire.batch.errors import JobNotFound
from qwire.batch.item import Checkpoint, Lease, LeasedItem, Outcome
from qwire.batch.job import ItemState, JobState
from qwire.batch.leasing import lease_of
from qwire.batch.recording import free_unknown, keep_partials, record_outcomes
from qwire.batch.removal import hide, remove
from qwire.batch.schema import items, jobs, runners
from qwire.batch.settle import lock
from qwire.batch.store import Clock

_ToldT = TypeVar("_ToldT", Outcome, Checkpoint)

_JOBS_AT_ONCE = 16
"""Jobs that one call takes items of; each is a transaction of its own."""


class LeaseStore:
    """Hands out items and takes their outcomes. Every method may be repeated.

    All methods raise `StoreUnavailable` where the database cannot be reached.

    Args:
        database: Where it remembers.
        lease_ns: How long a runner may be silent before others get what it holds, nanoseconds.
        clock: Returns nanoseconds since the epoch.
    """

    def __init__(self, database: Database, lease_ns: int, clock: Clock = time.time_ns) -> None:
        self._database = database
        self._lease_ns = lease_ns
        self._clock = clock

    async def lease(self, runner_id: str, limit: int) -> list[LeasedItem]:
        """Take items that wait: of the job of the highest priority, of several the one that was left alone longest.

        Args:
            runner_id: Who takes them; it has to `renew` before, and as long as it holds any.
            limit: The most.
        """
        now = self._clock()
        leased: list[LeasedItem] = []
        for job_id in await self._busy_jobs(now):
            if len(leased) == limit:
                break
            async with self._database.write() as connection:
                leased += await lease_of(connection, job_id, runner_id, limit - len(leased), now)
        return leased

    async def renew(self, runner_id: str, held: Iterable[Lease]) -> set[Lease]:
        """Give a sign of life.

        Args:
            runner_id: Whose.
            held: Leases that the runner believes to hold.

        Returns:
            Those of them that it has lost: their items were cancelled, have expired, or went to others.
        """
        await self._sign(runner_id)
        query = select(items.c.job_id, items.c.number, items.c.attempts).where(items.c.runner_id == runner_id)
        async with self._database.read() as connection:
            still = {Lease(*row) for row in await connection.execute(query)}
        return set(held) - still

    async def record(self, runner_id: str, outcomes: Sequence[Outcome]) -> set[Lease]:
        """Record what became of items.

        Returns:
            The leases that were lost before, so that nothing was recorded for them.
        """
        lost: set[Lease] = set()
        for job_id, own in _by_job(outcomes).items():
            async with self._database.write() as connection:
                try:
                    job = await lock(connection, None, job_id)
                    lost |= await record_outcomes(connection, job, runner_id, own, self._clock())
                except JobNotFound:  # deleted meanwhile
                    lost |= {outcome.lease for outcome in own}
        return lost

    async def keep(self, runner_id: str, checkpoints: Sequence[Checkpoint]) -> None:
        """Keep what running items have said so far; nothing is kept for leases that were lost."""
        for job_id, own in _by_job(checkpoints).items():
            async with self._database.write() as connection:
                try:
                    await lock(connection, None, job_id)
                except JobNotFound:
                    continue
                await keep_partials(connection, runner_id, own)

    async def release(self, runner_id: str, known: Collection[Lease]) -> None:
        """Give back what a runner holds without knowing: leases of which the store's answer was lost on its way.

        Args:
            runner_id: Whose; no `lease` of it may be under way.
            known: What it knows to hold.
        """
        query = select(items.c.job_id).where(items.c.runner_id == runner_id).distinct()
        async with self._database.read() as connection:
            job_ids = (await connection.execute(query)).scalars().all()
        for job_id in job_ids:
            async with self._database.write() as connection:
                try:
                    await lock(connection, None, job_id)
                except JobNotFound:
                    continue
                await free_unknown(connection, job_id, runner_id, known)

    async def leave(self, runner_id: str) -> None:
        """Give back everything that a runner holds; it is not to be heard of again."""
        async with self._database.write() as connection:
            await connection.execute(delete(runners).where(runners.c.id == runner_id))
        await self._give_back()

    async def sweep(self, open_limit_ns: int) -> None:
        """Do what time asks for: take from dead runners, end what has expired, delete what was kept long enough.

        Args:
            open_limit_ns: How long after its creation a job may stay open, nanoseconds; it then expires.
        """
        now = self._clock()
        async with self._database.read() as connection:
            late = or_(
                jobs.c.expires_ns < now,
                and_(jobs.c.state == JobState.OPEN, jobs.c.created_ns < now - open_limit_ns),
                jobs.c.state.in_((JobState.CANCELLED, JobState.EXPIRED)),  # whoever was to end it was interrupted
            )
            expired = (
                (await connection.execute(select(jobs.c.id).where(jobs.c.ended_ns.is_(None), late))).scalars().all()
            )
            over = jobs.c.delete_ns < now
            kept_long_enough = (await connection.execute(select(jobs.c.id).where(over))).scalars().all()
        await self._give_back()
        for job_id in expired:
            with suppress(JobNotFound):  # deleted meanwhile
                await end_job(self._database, None, job_id, JobState.EXPIRED, self._clock)
        for job_id in kept_long_enough:
            async with self._database.write() as connection:
                hidden = await hide(connection, job_id, over)  # unless its items were just retried
            if hidden:
                await remove(self._database, job_id)
        async with self._database.write() as connection:
            await connection.execute(delete(runners).where(runners.c.expires_ns < now))

    async def _sign(self, runner_id: str) -> None:
        expires_ns = self._clock() + self._lease_ns
        async with self._database.write() as connection:
            changed = await connection.execute(
                update(runners).where(runners.c.id == runner_id).values(expires_ns=expires_ns)
            )
            if not changed.rowcount:
                await connection.execute(insert(runners).values(id=runner_id, expires_ns=expires_ns))

    async def _busy_jobs(self, now: int) -> Sequence[str]:
        live = jobs.c.state.in_((JobState.OPEN, JobState.RUNNING))
        in_time = or_(jobs.c.expires_ns.is_(None), jobs.c.expires_ns > now)
        query = select(jobs.c.id).where(live, in_time, jobs.c.pending > 0)
        order = (jobs.c.priority.desc(), jobs.c.leased_ns, jobs.c.created_ns)
        async with self._database.read() as connection:
            return (await connection.execute(query.order_by(*order).limit(_JOBS_AT_ONCE))).scalars().all()

    async def _give_back(self) -> None:
        """Let items wait again whose runners are not alive."""
        alive = exists().where(runners.c.id == items.c.runner_id, runners.c.expires_ns >= self._clock())
        orphaned = and_(items.c.runner_id.is_not(None), ~alive)
        async with self._database.read() as connection:
            job_ids = (await connection.execute(select(items.c.job_id).where(orphaned).distinct())).scalars().all()
        for job_id in job_ids:
            async with self._database.write() as connection:
                try:
                    await lock(connection, None, job_id)
                except JobNotFound:
                    continue
                freed = {"state": ItemState.PENDING, "runner_id": None, "available_ns": 0}
                held = and_(items.c.job_id == job_id, orphaned)
                count = (await connection.execute(update(items).where(held).values(freed))).rowcount
                counts = {"running": jobs.c.running - count, "pending": jobs.c.pending + count}
                await connection.execute(update(jobs).where(jobs.c.id == job_id).values(counts))


def _by_job(told: Iterable[_ToldT]) -> dict[str, list[_ToldT]]:
    found: dict[str, list[_ToldT]] = {}
    for one in told:
        found.setdefault(one.lease.job_id, []).append(one)
    return found
