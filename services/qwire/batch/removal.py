"""Removes jobs with everything in them: at once for whoever asks for them, and piece by piece in the database.

A million items in one transaction would keep SQLite's other writers waiting for half a minute. So a job is first given
to nobody, and `delete_ns` says that its time is over; whoever is interrupted after that, the next sweep goes on.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.database import Database
from qwire.batch.schema import items, jobs, labels

_NOBODY = "(deleted)"
"""Owns what is being deleted; not the name of a caller, who could have no such character in it."""
_ITEMS = 5_000
"""Items of a transaction: some tenths of a second."""


async def hide(connection: AsyncConnection, job_id: str, condition: ColumnElement[bool] | None = None) -> bool:
    """Take a job away from its owner, and say whether it was there and fulfils the condition."""
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
    """Delete a hidden job; others may do so at the same time.

    Raises:
        StoreUnavailable: The database cannot be reached.
    """
    async with database.read() as connection:
        last = (await connection.execute(select(func.max(items.c.number)).where(items.c.job_id == job_id))).scalar()
    for first in range(1, (last or 0) + 1, _ITEMS):
        piece = and_(items.c.job_id == job_id, items.c.number.between(first, first + _ITEMS - 1))
        async with database.write() as connection:
            await connection.execute(delete(items).where(piece))
    async with database.write() as connection:
        await connection.execute(delete(jobs).where(jobs.c.id == job_id))
