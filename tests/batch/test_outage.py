"""A database that goes away, and comes back."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from qwire.batch.database import Database
from qwire.batch.errors import StoreUnavailable
from qwire.batch.item import Outcome
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState
from qwire.batch.lease_store import LeaseStore
from qwire.batch.migration import migrate
from qwire.batch.store import JobStore
from qwire.client import AsyncClient, ClientOptions, Unavailable
from qwire.rpc.config import BatchConfig
from tests.batch.jobs import TENANT, check_counters, new_job, sealed_job, take
from tests.batch.stores import Store
from tests.contract.edge import CALM, open_edge

_WAIT_S = 0.3
_ONCE = ClientOptions(retry=None, resume=None)


async def test_an_outage_is_told_from_a_mistake_and_ends(store: Store) -> None:
    database = Database(store.url, wait_s=_WAIT_S)
    await migrate(database)
    jobs = JobStore(database)
    job = await jobs.create(TENANT, new_job())
    async with store.outage():
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await jobs.cancel(TENANT, job.id)
    assert (await jobs.cancel(TENANT, job.id)).id == job.id
    with pytest.raises(DBAPIError, match="nowhere"):
        async with database.write() as connection:
            await connection.execute(text("DELETE FROM nowhere"))
    with pytest.raises(IntegrityError):
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO runners (id) VALUES ('a')"))
    await database.close()
    with pytest.raises(StoreUnavailable):
        await jobs.get(TENANT, job.id)


async def test_a_connection_that_breaks_in_a_transaction_is_an_outage(store: Store) -> None:
    if store.url.startswith("sqlite"):
        pytest.skip("a file has no connections")
    database = Database(store.url)
    await migrate(database)
    for statements in (1, 0) * 3:
        with pytest.raises(StoreUnavailable):
            await _break_off(database, store, statements)
    await store.cut()  # while nobody uses them
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await database.close()


async def _break_off(database: Database, store: Store, statements: int) -> None:
    """Lose the connection of a transaction before so many of its statements, or before its end."""
    async with database.write() as connection:
        await connection.execute(text("SELECT 1"))
        await store.cut()
        for _ in range(statements):
            await connection.execute(text("SELECT 1"))


async def _fail_to_start(store_url: str) -> None:
    with pytest.raises(ValueError, match="newer version"):
        async with open_edge(config=replace(CALM, batch=BatchConfig(store_url=store_url))):
            pass


async def test_nothing_is_left_open_whoever_is_cancelled(database_url: str) -> None:
    for moment in range(12):
        database = Database(database_url)

        async def use(database: Database = database) -> None:
            for transaction in (database.read, database.write):
                async with transaction() as connection:
                    for _ in range(3):
                        await connection.execute(text("SELECT 1"))

        users = [asyncio.create_task(use()) for _ in range(5)]
        await asyncio.sleep(moment * 0.002)
        for user in users[: moment % 6]:
            user.cancel()
        await database.close()
        await asyncio.gather(*users, return_exceptions=True)
        del database
        gc.collect()  # a connection that is dropped open warns, which is an error


async def test_a_runner_gives_back_what_it_does_not_know_of(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore
) -> None:
    await sealed_job(jobs, items, "a", "b", "c")
    first, *_ = await take(leases, "runner", 2)
    await leases.lease("runner", 1)  # whose answer never came
    await leases.release("runner", {first.lease})
    await check_counters(database)
    again = await take(leases, "runner", 3)
    assert [item.id for item in again] == ["b", "c"]
    outcomes = [Outcome(item.lease, ItemState.SUCCEEDED, b"said") for item in (first, *again)]
    assert await leases.record("runner", outcomes) == set()
    await check_counters(database)


async def test_callers_are_told_to_come_back(store: Store) -> None:
    config = replace(CALM, batch=BatchConfig(store_url=store.url, store_wait_s=_WAIT_S))
    async with open_edge(config=config) as edge, AsyncClient(f"127.0.0.1:{edge.port}", _ONCE) as client:
        job = await client.jobs.create()
        watching = client.jobs.watch(job.id)
        assert (await anext(watching)).id == job.id
        async with store.outage():
            with pytest.raises(Unavailable) as refused:
                await client.jobs.cancel(job.id)
            assert refused.value.retry_after_s
            if not store.url.startswith("sqlite"):  # a file can still be read
                with pytest.raises(Unavailable) as ended:
                    await anext(watching)
                assert ended.value.retry_after_s
        await watching.aclose()
        assert (await client.jobs.cancel(job.id)).id == job.id


async def test_a_server_that_cannot_start_leaves_no_connection(store: Store) -> None:
    database = Database(store.url)
    await migrate(database)
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    await _fail_to_start(store.url)
    gc.collect()  # a connection that is dropped open warns, which is an error
