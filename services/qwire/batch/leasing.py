"""Gives the items of one job to a runner."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.errors import JobNotFound
from qwire.batch.item import Lease, LeasedItem
from qwire.batch.job import ItemState, JobState
from qwire.batch.schema import items, jobs
from qwire.batch.settle import lock

_NEEDED = (
    *(items.c.number, items.c.item_id, items.c.spec),
    *(items.c.attempts, items.c.failures, items.c.partial),
)
_BEGIN = (
    update(items)
    .where(items.c.job_id == bindparam("job"), items.c.number == bindparam("item"))
    .values(state=ItemState.RUNNING, runner_id=bindparam("runner"), attempts=items.c.attempts + 1)
)


async def lease_of(connection: AsyncConnection, job_id: str, runner_id: str, limit: int, now: int) -> list[LeasedItem]:
    """Take items of one job that wait, in their order.

    Args:
        connection: The transaction.
        job_id: The job; nothing is taken where it is gone.
        runner_id: Who takes them.
        limit: The most.
        now: Nanoseconds since the epoch.
    """
    try:
        job = await lock(connection, None, job_id)
    except JobNotFound:
        return []
    if JobState(job["state"]).ended:  # a moment ago
        return []
    waits = and_(items.c.job_id == job_id, items.c.state == ItemState.PENDING, items.c.available_ns <= now)
    query = select(*_NEEDED).where(waits).order_by(items.c.number).limit(limit)
    rows = (await connection.execute(query)).mappings().all()
    if not rows:
        return []
    # One short statement for many rows: a list of numbers in it would be another statement for each length.
    await connection.execute(_BEGIN, [{"job": job_id, "item": row["number"], "runner": runner_id} for row in rows])
    counts = {"pending": jobs.c.pending - len(rows), "running": jobs.c.running + len(rows), "leased_ns": now}
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(counts))
    return [
        LeasedItem(
            lease=Lease(job_id, row["number"], row["attempts"] + 1),
            id=row["item_id"],
            tenant=job["tenant"],
            spec=bytes(row["spec"]),
            partial=bytes(row["partial"] or b""),
            failures=row["failures"],
            max_attempts=job["max_attempts"],
            priority=job["priority"],
            expires_ns=job["expires_ns"],
        )
        for row in rows
    ]
