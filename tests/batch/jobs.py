"""What tests of the job store append and check."""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import func, select

from qwire.batch.database import Database
from qwire.batch.item import Chunk, LeasedItem, NewItem
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState, Job, JobState, NewJob
from qwire.batch.lease_store import LeaseStore
from qwire.batch.schema import items as item_table
from qwire.batch.schema import jobs as job_table
from qwire.batch.store import JobStore

TENANT = "team-a"
HOUR_NS = 3600 * 10**9


def new_job(request_id: str = "request", *, window_ns: int | None = None, priority: int = -1) -> NewJob:
    digest = sha256(repr((request_id, window_ns, priority)).encode()).digest()
    return NewJob(request_id, digest, HOUR_NS, {"team": "red"}, priority, window_ns)


def new_items(*ids: str) -> list[NewItem]:
    return [NewItem(index, item_id, f"spec of {item_id}".encode()) for index, item_id in enumerate(ids)]


def digest_of(items: list[NewItem]) -> bytes:
    return sha256(repr(items).encode()).digest()


async def append(store: ItemStore, job: Job, index: int, *ids: str) -> Chunk:
    items = new_items(*ids)
    return await store.append(job.tenant, job.id, index, digest=digest_of(items), accepted=items)


async def sealed_job(jobs: JobStore, items: ItemStore, *ids: str, request_id: str = "request") -> Job:
    job = await jobs.create(TENANT, new_job(request_id))
    await append(items, job, 0, *ids)
    return await jobs.seal(TENANT, job.id, 1, None)


async def check_counters(database: Database) -> None:
    """Every counter of every job is the sum of its items, and it has ended exactly where nothing is left to do."""
    async with database.read() as connection:
        rows = (await connection.execute(select(job_table))).mappings().all()
        for row in rows:
            own = item_table.c.job_id == row["id"]
            query = select(item_table.c.state, func.count().label("items")).where(own).group_by(item_table.c.state)
            counted = {one.state: one.items for one in await connection.execute(query)}
            assert {state: row[state.name.lower()] for state in ItemState} == {
                state: counted.get(state, 0) for state in ItemState
            }
            left = row["pending"] + row["running"]
            assert JobState(row["state"]).ended == (row["ended_ns"] is not None)
            assert not (row["state"] == JobState.RUNNING and left == 0)
            assert not (JobState(row["state"]).ended and left)
            cursors = (await connection.execute(select(item_table.c.landed).where(own))).scalars().all()
            landed = [cursor for cursor in cursors if cursor is not None]
            assert len(set(landed)) == len(landed)
            assert max(landed, default=0) <= row["landed"]
            running = select(func.count()).where(own, item_table.c.runner_id.is_not(None))
            assert (await connection.execute(running)).scalar_one() == row["running"]


async def take(store: LeaseStore, runner_id: str, limit: int) -> list[LeasedItem]:
    """Lease items as a living runner does."""
    await store.renew(runner_id, ())
    return await store.lease(runner_id, limit)
