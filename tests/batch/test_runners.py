"""Several runners on one store and one engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from qwire.batch.database import Database
from qwire.batch.errors import StoreUnavailable
from qwire.batch.item import Lease, LeasedItem, Outcome
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState
from qwire.batch.lease_store import LeaseStore
from qwire.batch.runner import JobRunner, RunnerConfig
from qwire.batch.store import JobStore
from qwire.batch.work import Ended
from qwire.client import AsyncClient, BatchJobState
from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.text.processor import TextProcessor
from tests.batch.jobs import TENANT, check_counters, sealed_job
from tests.contract.edge import CALM, card_of, open_edge, served
from tests.support.byte_tokenizer import write_byte_tokenizer

LEASE_NS = 60 * 10**9
ITEMS = 300
RUNNERS = 3


class Echo:
    """Says at once what it was asked for."""

    def __init__(self, item: LeasedItem) -> None:
        self._item = item

    async def run(self, taken: Callable[[], None]) -> Ended:
        taken()
        return Ended(ItemState.SUCCEEDED, self._item.spec)

    def partial(self) -> bytes:
        return b""


class EchoWorkshop:
    def begin(self, item: LeasedItem) -> Echo:
        return Echo(item)


class LossyStore(LeaseStore):
    """Does what it is asked for, and loses every second answer on its way."""

    asked = 0

    @override
    async def lease(self, runner_id: str, limit: int) -> list[LeasedItem]:
        leased = await super().lease(runner_id, limit)
        self._lose()
        return leased

    @override
    async def record(self, runner_id: str, outcomes: Sequence[Outcome]) -> set[Lease]:
        lost = await super().record(runner_id, outcomes)
        self._lose()
        return lost

    def _lose(self) -> None:
        self.asked += 1
        if self.asked % 2:
            raise StoreUnavailable


async def test_an_answer_of_the_store_that_is_lost_loses_and_doubles_nothing(
    database: Database, jobs: JobStore, items: ItemStore
) -> None:
    job = await sealed_job(jobs, items, *map(str, range(20)))
    runner = JobRunner(LossyStore(database, LEASE_NS), EchoWorkshop(), RunnerConfig(8, 60.0, 60.0, 3600.0))
    runner.start()
    async with asyncio.timeout(60):
        while not (ended := await jobs.get(TENANT, job.id)).state.ended:  # noqa: ASYNC110 - of the store there is no event
            await asyncio.sleep(0.05)
    await runner.close()
    assert ended.counts[ItemState.SUCCEEDED] == 20
    found = await items.items(TENANT, job.id, state=None, after=0, limit=100)
    assert [item.content for item in found] == [f"spec of {number}".encode() for number in range(20)]
    await check_counters(database)


async def test_several_runners_generate_each_item_once(database_url: str, tmp_path: Path) -> None:
    processor = TextProcessor.from_folder(write_byte_tokenizer(tmp_path / "tokenizer"))
    batch = BatchConfig(store_url=database_url, runner_concurrency=8)
    engine = FakeEngine(card=card_of(processor), max_running=8 * RUNNERS)
    async with (
        open_edge([await served(processor, engine)], config=replace(CALM, batch=batch)) as edge,
        AsyncClient(f"127.0.0.1:{edge.port}") as client,
    ):
        runners = [BatchRunner(edge.registry, batch) for _ in range(RUNNERS)]
        await asyncio.gather(*(runner.start() for runner in runners))
        job = await client.jobs.create()
        await client.jobs.upload(job.id, [f"prompt {number}" for number in range(ITEMS)], max_output_tokens=2)
        results = [item async for item in client.jobs.results(job.id)]
        ended = await client.jobs.get(job.id)
        await asyncio.gather(*(runner.close() for runner in runners))
    assert sorted(int(item.id) for item in results) == list(range(ITEMS))
    assert {item.attempts for item in results} == {1}
    assert set(Counter(request.prompt_token_ids for request in engine.requests).values()) == {1}
    assert (ended.state, ended.succeeded, ended.usage.output_tokens) == (BatchJobState.COMPLETED, ITEMS, 2 * ITEMS)
    database = Database(database_url)
    await check_counters(database)
    await database.close()
