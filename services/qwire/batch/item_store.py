"""The items of jobs, as the gateway asks for them: append, look, follow, cancel, run again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.database import Database
from qwire.batch.errors import ChunkConflict, ItemsNotFound, JobNotOpen
from qwire.batch.item import Chunk, Item, NewItem, Rejection
from qwire.batch.job import ItemState, Job, JobState
from qwire.batch.rows import item_of, read_job
from qwire.batch.schema import chunks, items, jobs, rejections
from qwire.batch.settle import end_items, lock, settle
from qwire.batch.store import Clock


class ItemStore:
    """Remembers items. Every method is one transaction, and every change may be repeated.

    All methods raise `StoreUnavailable` where the database cannot be reached, and `JobNotFound` where the tenant has no
    such job.

    Args:
        database: Where it remembers.
        clock: Returns nanoseconds since the epoch.
    """

    def __init__(self, database: Database, clock: Clock = time.time_ns) -> None:
        self._database = database
        self._clock = clock

    async def append(
        self,
        tenant: str,
        job_id: str,
        index: int,
        *,
        digest: bytes,
        accepted: Sequence[NewItem],
        refused: Sequence[Rejection] = (),
    ) -> Chunk:
        """Add a chunk, or return what became of the same chunk before.

        Args:
            tenant: Whose job it is.
            job_id: The job.
            index: The chunk's place among the job's.
            digest: Of all items of the chunk.
            accepted: Items to add; one whose id is taken is rejected.
            refused: Items that are not to be added, remembered for when the chunk comes again.

        Raises:
            ChunkConflict: Another chunk has this index.
            JobNotOpen: The job takes no more items.
        """
        async with self._database.write() as connection:
            job = await lock(connection, tenant, job_id)
            known = await _chunk(connection, job_id, index)
            if known is not None:
                return _same(known, digest)
            if job["state"] != JobState.OPEN:
                raise JobNotOpen
            taken = await _taken(connection, job_id, [item.id for item in accepted])
            new: list[NewItem] = []
            rejected = list(refused)
            for item in accepted:
                if item.id in taken:
                    rejected.append(Rejection(item.index, item.id))
                else:
                    taken.add(item.id)
                    new.append(item)
            rejected.sort(key=lambda rejection: rejection.index)
            chunk = Chunk(digest, len(new), tuple(rejected))
            await _insert_chunk(connection, job_id, index, chunk)
            first = sum(job[state.name.lower()] for state in ItemState) + 1
            if new:
                await connection.execute(
                    insert(items),
                    [
                        {
                            "job_id": job_id,
                            "number": number,
                            "item_id": item.id,
                            "state": ItemState.PENDING,
                            "spec": item.spec,
                        }
                        for number, item in enumerate(new, first)
                    ],
                )
            grown = {"chunks": jobs.c.chunks + 1, "pending": jobs.c.pending + len(new)}
            await connection.execute(update(jobs).where(jobs.c.id == job_id).values(grown))
            return chunk

    async def chunk(self, tenant: str, job_id: str, index: int, digest: bytes) -> Chunk | None:
        """Return what became of a chunk; None = it was not appended.

        Raises:
            ChunkConflict: Another chunk has this index.
        """
        async with self._database.read() as connection:
            await read_job(connection, tenant, job_id)
            known = await _chunk(connection, job_id, index)
        return None if known is None else _same(known, digest)

    async def cancel_items(self, tenant: str, job_id: str, item_ids: Sequence[str]) -> int:
        """End items that have no outcome.

        Returns:
            How many.

        Raises:
            ItemsNotFound: The job has no items of some of these ids; nothing was ended.
        """
        async with self._database.write() as connection:
            job = await lock(connection, tenant, job_id)
            await _check_known(connection, job_id, item_ids)
            ended = await end_items(connection, job, ItemState.CANCELLED, self._clock(), items.c.item_id.in_(item_ids))
            await settle(connection, job_id, self._clock())
            return ended

    async def retry_items(self, tenant: str, job_id: str, item_ids: Sequence[str]) -> int:
        """Let items that failed run again; a job that had ended runs again with them.

        Args:
            tenant: Whose job it is.
            job_id: The job.
            item_ids: Which; none = all that failed.

        Returns:
            How many run again.

        Raises:
            ItemsNotFound: The job has no items of some of these ids; none runs again.
            JobNotOpen: The job was cancelled or has expired.
        """
        async with self._database.write() as connection:
            job = await lock(connection, tenant, job_id)
            await _check_known(connection, job_id, item_ids)
            state = JobState(job["state"])
            if state in (JobState.CANCELLED, JobState.EXPIRED):
                raise JobNotOpen
            chosen = and_(items.c.job_id == job_id, items.c.state == ItemState.FAILED)
            if item_ids:
                chosen = and_(chosen, items.c.item_id.in_(item_ids))
            fresh = {"state": ItemState.PENDING, "failures": 0, "content": None, "partial": None}
            result = await connection.execute(
                update(items).where(chosen).values(**fresh, landed=None, ended_ns=None, available_ns=0)
            )
            count = result.rowcount
            if count:
                moved: dict[str, Any] = {"failed": jobs.c.failed - count, "pending": jobs.c.pending + count}
                if state is JobState.COMPLETED:
                    moved |= {"state": JobState.RUNNING, "ended_ns": None, "delete_ns": None}
                await connection.execute(update(jobs).where(jobs.c.id == job_id).values(moved))
            return count

    async def items(self, tenant: str, job_id: str, *, state: ItemState | None, after: int, limit: int) -> list[Item]:
        """Return a page of a job's items in the order of their numbers.

        Args:
            tenant: Whose job it is.
            job_id: The job.
            state: Only those in this state; None = all.
            after: The number of the last one of the page before; 0 = the first page.
            limit: The most.
        """
        query = select(*_CONTENT).where(items.c.job_id == job_id, items.c.number > after)
        if state is not None:
            query = query.where(items.c.state == state)
        async with self._database.read() as connection:
            await read_job(connection, tenant, job_id)
            rows = await connection.execute(query.order_by(items.c.number).limit(limit))
            return [item_of(row) for row in rows.mappings()]

    async def landed(self, tenant: str, job_id: str, *, after: int, limit: int) -> tuple[Job, list[Item]]:
        """Return a job as it is now, and its next outcomes in the order in which they landed.

        Args:
            tenant: Whose job it is.
            job_id: The job.
            after: The cursor of the last outcome that is known; 0 = none is.
            limit: The most outcomes.
        """
        query = select(*_CONTENT).where(items.c.job_id == job_id, items.c.landed > after)
        async with self._database.read() as connection:
            job = await read_job(connection, tenant, job_id)
            rows = await connection.execute(query.order_by(items.c.landed).limit(limit))
            return job, [item_of(row) for row in rows.mappings()]


_CONTENT = (
    *(items.c.number, items.c.item_id, items.c.state, items.c.attempts),
    *(items.c.content, items.c.landed, items.c.ended_ns),
)


async def _chunk(connection: AsyncConnection, job_id: str, index: int) -> Chunk | None:
    where = (chunks.c.job_id == job_id, chunks.c.chunk_index == index)
    row = (await connection.execute(select(chunks).where(*where))).mappings().first()
    if row is None:
        return None
    query = select(rejections).where(rejections.c.job_id == job_id, rejections.c.chunk_index == index)
    refused = (await connection.execute(query.order_by(rejections.c.item_index))).mappings()
    told = tuple(Rejection(one["item_index"], one["item_id"], bytes(one["error"])) for one in refused)
    return Chunk(bytes(row["digest"]), row["accepted"], told)


def _same(known: Chunk, digest: bytes) -> Chunk:
    if known.digest != digest:
        raise ChunkConflict
    return known


async def _insert_chunk(connection: AsyncConnection, job_id: str, index: int, chunk: Chunk) -> None:
    place = {"job_id": job_id, "chunk_index": index}
    await connection.execute(insert(chunks).values(**place, digest=chunk.digest, accepted=chunk.accepted))
    if chunk.rejections:
        told = [{**place, "item_index": one.index, "item_id": one.id, "error": one.error} for one in chunk.rejections]
        await connection.execute(insert(rejections), told)


async def _taken(connection: AsyncConnection, job_id: str, item_ids: Sequence[str]) -> set[str]:
    query = select(items.c.item_id).where(items.c.job_id == job_id, items.c.item_id.in_(item_ids))
    return set((await connection.execute(query)).scalars())


async def _check_known(connection: AsyncConnection, job_id: str, item_ids: Sequence[str]) -> None:
    known = await _taken(connection, job_id, item_ids)
    unknown = tuple(item_id for item_id in item_ids if item_id not in known)
    if unknown:
        raise ItemsNotFound(unknown)
