"""Jobs, as the gateway asks for them: create, append, seal, look, cancel, delete."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import ColumnElement, RowMapping, and_, exists, insert, literal, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.database import Database
from qwire.batch.ending import end_job
from qwire.batch.errors import JobNotEnded, JobNotFound, JobNotOpen, RequestConflict, SealMismatch
from qwire.batch.job import ItemState, Job, JobState, NewJob
from qwire.batch.removal import hide, remove
from qwire.batch.rows import job_of, read_job, read_labels
from qwire.batch.schema import chunks, jobs, labels
from qwire.batch.settle import lock, settle

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class JobPage:
    """Where a page of jobs begins: after this one."""

    created_ns: int
    job_id: str


class JobStore:
    """Remembers jobs. Every method but `cancel` and `delete` is one transaction, and every change may be repeated.

    All methods raise `StoreUnavailable` where the database cannot be reached, and, where they name a job, `JobNotFound`
    where the tenant has no such job.

    Args:
        database: Where it remembers.
        clock: Returns nanoseconds since the epoch.
    """

    def __init__(self, database: Database, clock: Clock = time.time_ns) -> None:
        self._database = database
        self._clock = clock

    async def create(self, tenant: str, new: NewJob) -> Job:
        """Create a job, or return the one that the same request created.

        Raises:
            RequestConflict: Another request with its id created one.
        """
        try:
            async with self._database.write() as connection:
                found = await _find_request(connection, tenant, new.request_id)
                if found is None:
                    job_id = await self._insert(connection, tenant, new)
                    return await read_job(connection, tenant, job_id)
        except IntegrityError:  # the same request, at the same moment, through another gateway
            async with self._database.read() as connection:
                found = await _find_request(connection, tenant, new.request_id)
        if found is None or bytes(found["request_digest"]) != new.request_digest:
            raise RequestConflict
        async with self._database.read() as connection:
            return await read_job(connection, tenant, found["id"])

    async def seal(self, tenant: str, job_id: str, expected_chunks: int, digest: bytes | None) -> Job:
        """Take no more items; the same seal may come again.

        Args:
            tenant: Whose job it is.
            job_id: The job.
            expected_chunks: Chunks with the indexes below it, and no others, must be there.
            digest: Digest of their digests in their order; None = not compared.

        Raises:
            SealMismatch: Others are there.
            JobNotOpen: It was cancelled or has expired.
        """
        async with self._database.write() as connection:
            job = await lock(connection, tenant, job_id)
            rows = await connection.execute(
                select(chunks.c.chunk_index, chunks.c.digest)
                .where(chunks.c.job_id == job_id)
                .order_by(chunks.c.chunk_index)
            )
            held = [(index, bytes(one)) for index, one in rows]
            held_digest = sha256(b"".join(one for _, one in held)).digest()
            complete = [index for index, _ in held] == list(range(expected_chunks))
            if not complete or digest not in (None, held_digest):
                count = sum(job[state.name.lower()] for state in ItemState)
                raise SealMismatch(len(held), count, held_digest)
            if job["state"] == JobState.OPEN:
                sealed = {"state": JobState.RUNNING, "sealed_ns": self._clock()}
                await connection.execute(update(jobs).where(jobs.c.id == job_id).values(sealed))
                await settle(connection, job_id, self._clock())
            elif job["sealed_ns"] is None:
                raise JobNotOpen
            return await read_job(connection, tenant, job_id)

    async def get(self, tenant: str, job_id: str) -> Job:
        """Return a job as it is now."""
        async with self._database.read() as connection:
            return await read_job(connection, tenant, job_id)

    async def jobs(
        self, tenant: str, *, state: JobState | None, wanted: Mapping[str, str], limit: int, after: JobPage | None
    ) -> list[Job]:
        """Return a page of the tenant's jobs, newest first.

        Args:
            tenant: Whose.
            state: Only those in this state; None = all.
            wanted: Only those with all of these labels.
            limit: The most.
            after: The last one of the page before; None = the first page.
        """
        query = select(jobs).where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(_is(state))
        for key, value in wanted.items():
            same = and_(labels.c.job_id == jobs.c.id, labels.c.key == key, labels.c.value == value)
            query = query.where(exists().where(same))
        if after is not None:
            query = query.where(
                tuple_(jobs.c.created_ns, jobs.c.id) < tuple_(literal(after.created_ns), literal(after.job_id))
            )
        query = query.order_by(jobs.c.created_ns.desc(), jobs.c.id.desc()).limit(limit)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            found = await read_labels(connection, [row["id"] for row in rows])
        return [job_of(row, found.get(row["id"], {})) for row in rows]

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """End a job, and everything in it that has no outcome; one that has ended stays as it is.

        When this is interrupted, it may be repeated, and `LeaseStore.sweep` goes on with it as well.
        """
        await end_job(self._database, tenant, job_id, JobState.CANCELLED, self._clock)
        return await self.get(tenant, job_id)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Remove a job with everything in it; one that is not there is removed already.

        It is gone for the tenant at once, and for the database when this returns. When this is interrupted, it may be
        repeated, and `LeaseStore.sweep` goes on with it as well.

        Raises:
            JobNotEnded: Items have no outcome.
        """
        async with self._database.write() as connection:
            with suppress(JobNotFound):
                job = await lock(connection, tenant, job_id)
                if job["ended_ns"] is None:
                    raise JobNotEnded
                await hide(connection, job_id)
        await remove(self._database, job_id)

    async def _insert(self, connection: AsyncConnection, tenant: str, new: NewJob) -> str:
        job_id, now = f"job-{uuid.uuid4().hex}", self._clock()
        window = new.completion_window_ns
        values = {
            "id": job_id,
            "tenant": tenant,
            "request_id": new.request_id,
            "request_digest": new.request_digest,
            "priority": new.priority,
            "state": JobState.OPEN,
            "max_attempts": new.max_attempts,
            "retention_ns": new.retention_ns,
            "created_ns": now,
            "expires_ns": None if window is None else now + window,
        }
        await connection.execute(insert(jobs).values(values))
        if new.labels:
            rows = [{"job_id": job_id, "key": key, "value": value} for key, value in new.labels.items()]
            await connection.execute(insert(labels), rows)
        return job_id


def _is(state: JobState) -> ColumnElement[bool]:
    """Whether a row is that of a job in this state, as `job_of` tells it."""
    if state.ended:
        return and_(jobs.c.state == state, jobs.c.ended_ns.is_not(None))
    sealed = jobs.c.sealed_ns.is_(None) if state is JobState.OPEN else jobs.c.sealed_ns.is_not(None)
    return and_(jobs.c.ended_ns.is_(None), sealed)


async def _find_request(connection: AsyncConnection, tenant: str, request_id: str) -> RowMapping | None:
    query = select(jobs.c.id, jobs.c.request_digest).where(jobs.c.tenant == tenant, jobs.c.request_id == request_id)
    return (await connection.execute(query)).mappings().first()
