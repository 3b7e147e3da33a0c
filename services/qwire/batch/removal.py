"""Removes jobs with everything in them: at once for whoever asks for them, and piece by piece in the database.

A million items in one transaction would keep SQLite's other writers waiting for half a minute. So a job is first given
to nobody, and `delete_ns` says that its time is over; whoever is interrupted after that, the next sweep goes on.
"""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.database import Database
from qwire.batch.schema import items, jobs, labels, rejections

_NOBODY = "(deleted)"
"""Owns what is being deleted; not the name of a caller, who could have no such character in it."""
_PIECES = ((items.c.number, 5_000), (rejections.c.chunk_index, 5))
"""By which number the rows of a large table are taken, and how many numbers a transaction takes at most. A chunk has up
to 1,000 items, so each is some tenths of a second."""


async def hide(connection: AsyncConnection, job_id: str, condition: ColumnElement[bool] | None = None) -> bool:
    """Take a job away from its owner, and say whether it was there.

    Args:
        connection: In a transaction that changes something.
        job_id: The job.
        condition: Leave it where this does not hold; None = in any case.
    """
    which = jobs.c.id == job_id
    changed = await connection.execute(
        update(jobs)
        .where(which if condition is None else and_(which, condition))
        .values(tenant=_NOBODY, request_id=job_id, delete_ns=0)
    )
    if not changed.rowcount:
        return False
    await connection.execute(delete(labels).where(labels.c.job_id == job_id))
    return True


async def remove(database: Database, job_id: str) -> None:
    """Delete a job if it is hidden; others may do so at the same time.

    Raises:
        StoreUnavailable: The database cannot be reached.
    """
    hidden = and_(jobs.c.id == job_id, jobs.c.tenant == _NOBODY)
    async with database.read() as connection:
        if (await connection.execute(select(jobs.c.id).where(hidden))).first() is None:
            return
    for number, size in _PIECES:
        while await _remove_piece(database, job_id, number, size):
            pass
    async with database.write() as connection:
        await connection.execute(delete(jobs).where(hidden))


async def _remove_piece(database: Database, job_id: str, number: Column[int], size: int) -> bool:
    """Delete the rows with the smallest numbers, and say whether there were any."""
    own = number.table.c.job_id == job_id
    async with database.write() as connection:
        first = (await connection.execute(select(func.min(number)).where(own))).scalar()
        if first is None:
            return False
        await connection.execute(delete(number.table).where(own, number < first + size))
        return True
