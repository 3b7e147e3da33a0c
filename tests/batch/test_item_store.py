import asyncio

import pytest

from qwire.batch.database import Database
from qwire.batch.errors import ChunkConflict, ItemsNotFound, JobNotOpen
from qwire.batch.item import Outcome, Rejection
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState, JobState
from qwire.batch.lease_store import LeaseStore
from qwire.batch.store import JobStore
from tests.batch.jobs import TENANT, append, check_counters, digest_of, new_items, new_job, sealed_job, take


async def test_the_same_chunks_from_four_clients_in_any_order_are_one_job(
    database: Database, jobs: JobStore, items: ItemStore
) -> None:
    job = await jobs.create(TENANT, new_job())
    chunks = {index: [f"{index}-{number}" for number in range(20)] for index in range(6)}
    orders = ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2], [2, 2, 1, 1, 0, 5, 4, 3])

    async def client(order: list[int]) -> None:
        for index in order:
            chunk = await append(items, job, index, *chunks[index])
            assert (chunk.accepted, chunk.rejections) == (20, ())

    await asyncio.gather(*(client(order) for order in orders))
    sealed = await jobs.seal(TENANT, job.id, 6, None)
    assert (sealed.chunks, sealed.items) == (6, 120)
    found = await items.items(TENANT, job.id, state=None, after=0, limit=1000)
    assert [item.number for item in found] == list(range(1, 121))
    assert {item.id for item in found} == {item_id for ids in chunks.values() for item_id in ids}
    await check_counters(database)


async def test_other_items_under_the_same_index_are_refused(jobs: JobStore, items: ItemStore) -> None:
    job = await jobs.create(TENANT, new_job())
    await append(items, job, 0, "a")
    with pytest.raises(ChunkConflict):
        await append(items, job, 0, "b")
    with pytest.raises(ChunkConflict):
        await items.chunk(TENANT, job.id, 0, b"\0" * 32)


async def test_a_sealed_job_takes_no_new_chunk_and_knows_its_old_ones(jobs: JobStore, items: ItemStore) -> None:
    job = await sealed_job(jobs, items, "a")
    with pytest.raises(JobNotOpen):
        await append(items, job, 1, "b")
    assert (await append(items, job, 0, "a")).accepted == 1


async def test_rejections_are_remembered(jobs: JobStore, items: ItemStore) -> None:
    job = await jobs.create(TENANT, new_job())
    await append(items, job, 0, "a")
    offered = new_items("b", "a", "c", "c")
    refused = [Rejection(4, "bad", b"why")]
    answers = [
        await items.append(TENANT, job.id, 1, digest=digest_of(offered), accepted=offered, refused=refused)
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0].accepted == 2
    assert answers[0].rejections == (Rejection(1, "a"), Rejection(3, "c"), Rejection(4, "bad", b"why"))
    assert await items.chunk(TENANT, job.id, 1, digest_of(offered)) == answers[0]
    assert await items.chunk(TENANT, job.id, 2, digest_of(offered)) is None


async def test_cancelled_items_have_their_outcome_at_once(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore
) -> None:
    job = await sealed_job(jobs, items, "a", "b", "c")
    [held] = await take(leases, "runner", 1)
    assert await items.cancel_items(TENANT, job.id, ["a", "b"]) == 2
    assert await items.cancel_items(TENANT, job.id, ["a", "b"]) == 0
    assert await leases.renew("runner", [held.lease]) == {held.lease}
    assert await leases.record("runner", [Outcome(held.lease, ItemState.SUCCEEDED, b"late")]) == {held.lease}
    with pytest.raises(ItemsNotFound) as unknown:
        await items.cancel_items(TENANT, job.id, ["c", "nobody"])
    assert unknown.value.item_ids == ("nobody",)
    assert (await jobs.get(TENANT, job.id)).counts[ItemState.PENDING] == 1
    await items.cancel_items(TENANT, job.id, ["c"])
    assert (await jobs.get(TENANT, job.id)).state is JobState.COMPLETED
    await check_counters(database)


async def test_items_that_failed_run_and_land_again(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore
) -> None:
    job = await sealed_job(jobs, items, "a", "b")
    first, second = await take(leases, "runner", 2)
    await leases.record(
        "runner",
        [Outcome(first.lease, ItemState.FAILED, b"error"), Outcome(second.lease, ItemState.SUCCEEDED, b"text")],
    )
    ended, outcomes = await items.landed(TENANT, job.id, after=0, limit=10)
    assert ended.state is JobState.COMPLETED
    assert [(item.id, item.content) for item in outcomes] == [("a", b"error"), ("b", b"text")]
    assert await items.retry_items(TENANT, job.id, []) == 1
    assert await items.retry_items(TENANT, job.id, ["b"]) == 0
    again = await jobs.get(TENANT, job.id)
    assert (again.state, again.ended_ns, again.delete_ns) == (JobState.RUNNING, None, None)
    [held] = await take(leases, "runner", 2)
    assert (held.id, held.failures) == ("a", 0)
    await leases.record("runner", [Outcome(held.lease, ItemState.SUCCEEDED, b"better")])
    ended, later = await items.landed(TENANT, job.id, after=outcomes[-1].landed, limit=10)
    assert ended.state is JobState.COMPLETED
    assert [(item.id, item.content, item.attempts) for item in later] == [("a", b"better", 2)]
    await check_counters(database)


async def test_a_cancelled_job_cannot_be_retried(jobs: JobStore, items: ItemStore) -> None:
    job = await sealed_job(jobs, items, "a")
    await jobs.cancel(TENANT, job.id)
    with pytest.raises(JobNotOpen):
        await items.retry_items(TENANT, job.id, [])


async def test_pages_filter_by_state(jobs: JobStore, items: ItemStore) -> None:
    job = await sealed_job(jobs, items, *"abcde")
    await items.cancel_items(TENANT, job.id, ["b", "d"])
    cancelled = await items.items(TENANT, job.id, state=ItemState.CANCELLED, after=0, limit=10)
    assert [item.id for item in cancelled] == ["b", "d"]
    page = await items.items(TENANT, job.id, state=None, after=2, limit=2)
    assert [item.id for item in page] == ["c", "d"]
