"""What every change of a job has in common: its row is locked first, and it ends when nothing is left to do."""

from __future__ import annotations

from sqlalchemy import ColumnElement, RowMapping, and_, case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.errors import JobNotFound
from qwire.batch.job import ItemState, JobState
from qwire.batch.schema import items, jobs


async def lock(connection: AsyncConnection, tenant: str | None, job_id: str) -> RowMapping:
    """Lock a job until the transaction ends, and return its row.

    Args:
        connection: The transaction.
        tenant: Whose job it must be; None = whoever's.
        job_id: The job.

    Raises:
        JobNotFound: The tenant has no such job.
    """
    query = select(jobs).where(jobs.c.id == job_id).with_for_update()  # SQLite has one writer at a time anyhow
    row = (await connection.execute(query)).mappings().first()
    if row is None or tenant not in (None, row["tenant"]):
        raise JobNotFound
    return row


async def end_items(
    connection: AsyncConnection,
    job: RowMapping,
    state: ItemState,
    now_ns: int,
    chosen: ColumnElement[bool],
) -> int:
    """End items of a locked job that have no outcome.

    Args:
        connection: The transaction.
        job: The job's row.
        state: What they become: CANCELLED or EXPIRED.
        now_ns: When.
        chosen: Which.

    Returns:
        How many.
    """
    left = and_(items.c.job_id == job["id"], items.c.state.in_((ItemState.PENDING, ItemState.RUNNING)), chosen)
    running = func.sum(case((items.c.state == ItemState.RUNNING, 1), else_=0))
    count, were_running, last = (
        await connection.execute(select(func.count(), running, func.max(items.c.number)).where(left))
    ).one()
    if not count:
        return 0
    # Cursors have to grow, not to be without gaps: an item's number keeps them apart in one statement.
    outcome = {"state": state, "landed": job["landed"] + items.c.number, "ended_ns": now_ns}
    await connection.execute(update(items).where(left).values(**outcome, runner_id=None, partial=None))
    column = jobs.c[state.name.lower()]
    moved = {
        "running": jobs.c.running - were_running,
        "pending": jobs.c.pending - (count - were_running),
        column.name: column + count,
        "landed": jobs.c.landed + last,
    }
    await connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(moved))
    return count


async def settle(connection: AsyncConnection, job_id: str, now_ns: int, ended: JobState = JobState.COMPLETED) -> None:
    """End a locked job that has nothing left to do.

    Args:
        connection: The transaction.
        job_id: The job.
        now_ns: When.
        ended: What it becomes; COMPLETED only where it is sealed.
    """
    left = [jobs.c.id == job_id, jobs.c.pending + jobs.c.running == 0, jobs.c.ended_ns.is_(None)]
    if ended is JobState.COMPLETED:
        left.append(jobs.c.state == JobState.RUNNING)
    end = {"state": ended, "ended_ns": now_ns, "delete_ns": now_ns + jobs.c.retention_ns}
    await connection.execute(update(jobs).where(*left).values(end))
