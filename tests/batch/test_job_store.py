import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch import ending, removal
from qwire.batch.database import Database
from qwire.batch.errors import JobNotEnded, JobNotFound, JobNotOpen, RequestConflict, SealMismatch
from qwire.batch.item import Outcome
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState, JobState
from qwire.batch.lease_store import LeaseStore
from qwire.batch.schema import items as item_rows
from qwire.batch.schema import rejections
from qwire.batch.store import JobPage, JobStore
from tests.batch.jobs import HOUR_NS, TENANT, append, check_counters, digest_of, new_items, new_job, sealed_job


async def test_the_same_request_creates_one_job(jobs: JobStore) -> None:
    created = await asyncio.gather(*(jobs.create(TENANT, new_job()) for _ in range(5)))
    assert len({job.id for job in created}) == 1
    assert created[0].state is JobState.OPEN
    assert created[0].labels == {"team": "red"}


async def test_another_request_under_the_same_id_is_refused(jobs: JobStore) -> None:
    await jobs.create(TENANT, new_job())
    with pytest.raises(RequestConflict):
        await jobs.create(TENANT, new_job(priority=1))


async def test_request_ids_of_two_tenants_have_nothing_in_common(jobs: JobStore) -> None:
    mine = await jobs.create(TENANT, new_job())
    theirs = await jobs.create("team-b", new_job())
    assert mine.id != theirs.id
    with pytest.raises(JobNotFound):
        await jobs.get(TENANT, theirs.id)
    with pytest.raises(JobNotFound):
        await jobs.cancel(TENANT, theirs.id)


async def test_a_seal_names_what_is_there(jobs: JobStore, items: ItemStore) -> None:
    job = await jobs.create(TENANT, new_job())
    await append(items, job, 1, "c")
    await append(items, job, 0, "a", "b")
    digest = sha256(digest_of(new_items("a", "b")) + digest_of(new_items("c"))).digest()
    with pytest.raises(SealMismatch) as mismatch:
        await jobs.seal(TENANT, job.id, 3, None)
    assert (mismatch.value.chunks, mismatch.value.items, mismatch.value.digest) == (2, 3, digest)
    with pytest.raises(SealMismatch):
        await jobs.seal(TENANT, job.id, 2, b"\0" * 32)
    assert (await jobs.get(TENANT, job.id)).state is JobState.OPEN
    for _ in range(2):
        assert (await jobs.seal(TENANT, job.id, 2, digest)).state is JobState.RUNNING


async def test_a_gap_between_chunks_cannot_be_sealed(jobs: JobStore, items: ItemStore) -> None:
    job = await jobs.create(TENANT, new_job())
    await append(items, job, 0, "a")
    await append(items, job, 2, "c")
    with pytest.raises(SealMismatch):
        await jobs.seal(TENANT, job.id, 2, None)


async def test_a_cancelled_job_has_an_outcome_for_every_item(
    database: Database, jobs: JobStore, items: ItemStore
) -> None:
    job = await sealed_job(jobs, items, "a", "b")
    cancelled = await jobs.cancel(TENANT, job.id)
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.counts[ItemState.CANCELLED] == 2
    assert await jobs.cancel(TENANT, job.id) == cancelled
    await check_counters(database)


async def test_an_open_job_that_was_cancelled_cannot_be_sealed(jobs: JobStore, items: ItemStore) -> None:
    job = await jobs.create(TENANT, new_job())
    await append(items, job, 0, "a")
    await jobs.cancel(TENANT, job.id)
    with pytest.raises(JobNotOpen):
        await jobs.seal(TENANT, job.id, 1, None)


async def test_only_what_has_ended_is_deleted(jobs: JobStore, items: ItemStore) -> None:
    job = await sealed_job(jobs, items, "a")
    with pytest.raises(JobNotEnded):
        await jobs.delete(TENANT, job.id)
    await jobs.cancel(TENANT, job.id)
    await jobs.delete("team-b", job.id)
    assert (await jobs.get(TENANT, job.id)).id == job.id
    for _ in range(2):
        await jobs.delete(TENANT, job.id)
    with pytest.raises(JobNotFound):
        await items.items(TENANT, job.id, state=None, after=0, limit=1)
    assert (await jobs.create(TENANT, new_job())).id != job.id


@pytest.mark.parametrize("by", ["sweep", "repetition"])
async def test_a_deletion_lets_others_in_and_is_gone_on_with(
    database: Database,
    jobs: JobStore,
    items: ItemStore,
    leases: LeaseStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    by: str,
) -> None:
    monkeypatch.setattr(removal, "_PIECES", ((item_rows.c.number, 3), (rejections.c.chunk_index, 3)))
    job = await sealed_job(jobs, items, *map(str, range(20)))
    await jobs.cancel(TENANT, job.id)
    stopped = stop_writes_of("deletion", 3, database, monkeypatch)  # the first hides it
    deletion = asyncio.create_task(jobs.delete(TENANT, job.id), name="deletion")
    await stopped.wait()
    assert await _rows(database, job.id) == 14
    again = await jobs.create(TENANT, new_job())  # nothing is locked, and its request id is free
    deletion.cancel()
    await asyncio.wait((deletion,))
    with pytest.raises(JobNotFound):
        await jobs.get(TENANT, job.id)
    assert [one.id for one in await jobs.jobs(TENANT, state=None, wanted={}, limit=9, after=None)] == [again.id]
    await (leases.sweep(HOUR_NS) if by == "sweep" else jobs.delete(TENANT, job.id))
    assert await _rows(database, job.id) == 0
    assert (await jobs.get(TENANT, again.id)).id == again.id


@pytest.mark.parametrize("by", ["sweep", "repetition"])
async def test_a_cancellation_lets_others_in_and_is_gone_on_with(
    database: Database,
    jobs: JobStore,
    items: ItemStore,
    leases: LeaseStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    by: str,
) -> None:
    monkeypatch.setattr(ending, "_PIECE_ITEMS", 3)
    job = await sealed_job(jobs, items, *map(str, range(20)))
    await leases.renew("runner", ())
    (first, *_, last) = await leases.lease("runner", 18)
    stopped = stop_writes_of("cancellation", 2, database, monkeypatch)
    cancellation = asyncio.create_task(jobs.cancel(TENANT, job.id), name="cancellation")
    await stopped.wait()
    part = await jobs.get(TENANT, job.id)
    assert (part.state, part.ended_ns, part.counts[ItemState.CANCELLED]) == (JobState.RUNNING, None, 6)
    for state, ids in ((JobState.RUNNING, [job.id]), (JobState.CANCELLED, [])):
        found = await jobs.jobs(TENANT, state=state, wanted={}, limit=9, after=None)
        assert [one.id for one in found] == ids
    assert await leases.lease("runner", 2) == []
    outcomes = [Outcome(one.lease, ItemState.SUCCEEDED, b"in time") for one in (first, last)]
    assert await leases.record("runner", outcomes) == {first.lease}
    cancellation.cancel()
    await asyncio.wait((cancellation,))
    with pytest.raises(JobNotEnded):
        await jobs.delete(TENANT, job.id)
    await (leases.sweep(HOUR_NS) if by == "sweep" else jobs.cancel(TENANT, job.id))
    ended = await jobs.get(TENANT, job.id)
    assert (ended.state, ended.counts[ItemState.CANCELLED], ended.counts[ItemState.SUCCEEDED]) == (
        JobState.CANCELLED,
        19,
        1,
    )
    assert ended.ended_ns is not None
    await check_counters(database)
    _, landed = await items.landed(TENANT, job.id, after=0, limit=30)
    assert len({item.landed for item in landed}) == 20


def stop_writes_of(name: str, after: int, database: Database, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let the task of this name write so often and no more; the event tells that it stands still."""
    writes, stopped, write = 0, asyncio.Event(), database.write

    @asynccontextmanager
    async def stopping() -> AsyncGenerator[AsyncConnection]:
        nonlocal writes
        task = asyncio.current_task()
        if task is not None and task.get_name() == name:
            writes += 1
            if writes > after:
                stopped.set()
                await asyncio.Event().wait()
        async with write() as connection:
            yield connection

    monkeypatch.setattr(database, "write", stopping)
    return stopped


async def _rows(database: Database, job_id: str) -> int:
    async with database.read() as connection:
        query = select(func.count()).select_from(item_rows).where(item_rows.c.job_id == job_id)
        return (await connection.execute(query)).scalar_one()


async def test_pages_hold_every_job_once(jobs: JobStore) -> None:
    made = [(await jobs.create(TENANT, new_job(f"r{number}"))).id for number in range(5)]
    found: list[str] = []
    page: JobPage | None = None
    while got := await jobs.jobs(TENANT, state=None, wanted={"team": "red"}, limit=2, after=page):
        found += [job.id for job in got]
        page = JobPage(got[-1].created_ns, got[-1].id)
    assert found == made[::-1]
    assert await jobs.jobs(TENANT, state=None, wanted={"team": "blue"}, limit=2, after=None) == []
    assert await jobs.jobs(TENANT, state=JobState.COMPLETED, wanted={}, limit=2, after=None) == []
    assert await jobs.jobs("team-b", state=None, wanted={}, limit=2, after=None) == []


async def test_the_window_begins_with_the_creation(jobs: JobStore) -> None:
    job = await jobs.create(TENANT, new_job(window_ns=HOUR_NS))
    assert job.expires_ns == job.created_ns + HOUR_NS
