"""Ends jobs before their time, with everything in them that has no outcome, piece by piece.

A million items in one transaction would keep SQLite's other writers waiting for as long as the database takes for them.
So a job is told first how it ends, after which nobody gets items of it, and it has ended once the last item has.
Whoever is interrupted in between, the next sweep goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import exists, select, update

from qwire.batch.database import Database
from qwire.batch.job import ItemState, JobState
from qwire.batch.schema import items, jobs
from qwire.batch.settle import end_items, lock, settle

_ITEMS = {JobState.CANCELLED: ItemState.CANCELLED, JobState.EXPIRED: ItemState.EXPIRED}
_PIECE_ITEMS = 5_000
"""Items that a transaction looks at: some hundredths of a second."""


async def end_job(database: Database, tenant: str | None, job_id: str, how: JobState, clock: Callable[[], int]) -> None:
    """End a job; one that has ended stays as it is, and one that is being ended ends as it began to.

    Args:
        database: Where it is.
        tenant: Whose job it must be; None = whoever's.
        job_id: The job.
        how: CANCELLED or EXPIRED.
        clock: Returns nanoseconds since the epoch.

    Raises:
        JobNotFound: The tenant has no such job.
        StoreUnavailable: The database cannot be reached.
    """
    first, more = 1, True
    while more:
        async with database.write() as connection:
            job = await lock(connection, tenant, job_id)
            if job["ended_ns"] is not None:
                return
            begun = JobState(job["state"])
            how = begun if begun.ended else how
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(state=how))
            after = first + _PIECE_ITEMS
            await end_items(connection, job, _ITEMS[how], clock(), items.c.number.between(first, after - 1))
            await settle(connection, job_id, clock(), how)
            left = exists().where(items.c.job_id == job_id, items.c.number >= after)
            first, more = after, bool((await connection.execute(select(left))).scalar())
