"""A job whose processes and store are lost in its middle: every item has one outcome, and a watch misses none."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qwire.batch.database import Database
from qwire.client import (
    AsyncClient,
    BatchJobItem,
    BatchJobState,
    ClientOptions,
    ResumeOptions,
    TextPrompt,
    Unavailable,
)
from tests.batch.jobs import check_counters
from tests.batch.stores import Store
from tests.support.byte_tokenizer import write_byte_tokenizer

TOKENS = 40


class Member:
    """A process that comes back after each kill: a gateway on its port, or a runner."""

    def __init__(self, store_url: str, tokenizer: Path, *, serves: bool) -> None:
        self.port = _free_port() if serves else 0
        self._arguments = (store_url, str(tokenizer), str(self.port))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, as often as it takes: it ends where the store is away."""
        while True:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.support.job_process", *self._arguments),
                cwd=Path(__file__).parents[2],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert process.stdout is not None
            if await process.stdout.readline() == b"serving\n":
                return
            await process.wait()

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def lose_replica(self) -> None:
        """Take away what a runner generates with, for a moment."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@asynccontextmanager
async def members(store_url: str, tokenizer: Path) -> AsyncGenerator[tuple[list[Member], list[Member]]]:
    """Run two gateways and two runners."""
    gateways, runners = ([Member(store_url, tokenizer, serves=serves) for _ in range(2)] for serves in (True, False))
    try:
        await asyncio.gather(*(member.start() for member in gateways))  # one at least has to make the tables
        await asyncio.gather(*(member.start() for member in runners))
        yield gateways, runners
    finally:
        await asyncio.gather(*(member.kill() for member in (*gateways, *runners)))


class Faults:
    """Takes things away until told to stop; losses of processes and of the store overlap."""

    def __init__(self, gateways: list[Member], runners: list[Member], store: Store) -> None:
        self._draw = random.Random(11)  # noqa: S311 - a schedule, not a secret
        self._gateways = gateways
        self._runners = runners
        self._store = store

    async def inflict(self, rounds: int) -> None:
        """Take everything away as often as this, in random order."""
        kinds = [self._kill_gateway, self._kill_runner, self._lose_replica, self._cut, self._lose_store] * rounds
        self._draw.shuffle(kinds)
        async with asyncio.TaskGroup() as group:
            store_faults = [kind for kind in kinds if kind in (self._cut, self._lose_store)]
            others = [kind for kind in kinds if kind not in store_faults]
            for own in (store_faults, others):
                group.create_task(self._one_by_one(own))

    async def _one_by_one(self, kinds: Sequence[Callable[[], Awaitable[None]]]) -> None:
        for inflict in kinds:
            await asyncio.sleep(self._draw.uniform(0.2, 1.0))
            await inflict()

    async def _kill_gateway(self) -> None:
        await self._kill(self._draw.choice(self._gateways))

    async def _kill_runner(self) -> None:
        await self._kill(self._draw.choice(self._runners))

    async def _kill(self, member: Member) -> None:
        await member.kill()
        await asyncio.sleep(self._draw.uniform(0.0, 0.5))
        await member.start()

    async def _lose_replica(self) -> None:
        self._draw.choice(self._runners).lose_replica()

    async def _cut(self) -> None:
        await self._store.cut()

    async def _lose_store(self) -> None:
        async with self._store.outage():
            await asyncio.sleep(self._draw.uniform(0.5, 1.5))


@pytest.mark.timeout(1800)
async def test_every_item_has_one_outcome_whatever_is_lost(
    store: Store, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    items: int = pytestconfig.option.job_items
    faults: int = pytestconfig.option.job_faults
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    prompts = [TextPrompt(f"prompt {number}") for number in range(items)]
    async with members(store.url, tokenizer) as (gateways, runners):
        target = "ipv4:" + ",".join(f"127.0.0.1:{member.port}" for member in gateways)
        resume = ResumeOptions(timeout_s=300, max_attempts=1000, initial_backoff_s=0.05, max_backoff_s=0.2)
        async with AsyncClient(target, ClientOptions(resume=resume)) as client:
            job = await client.jobs.create(request_id="job")
            losing = asyncio.create_task(Faults(gateways, runners, store).inflict(faults))
            while True:
                try:
                    await client.jobs.upload(job.id, prompts, max_output_tokens=TOKENS)
                    break
                except Unavailable:
                    await asyncio.sleep(0.2)
            seen = [event async for event in client.jobs.watch(job.id) if isinstance(event, BatchJobItem)]
            await losing
            ended = await client.jobs.get(job.id)
    assert any(item.attempts > 1 for item in seen), "no loss hit an item that ran"
    assert sorted(int(item.id) for item in seen) == list(range(items))
    cursors = [item.cursor for item in seen]
    assert cursors == sorted(set(cursors))
    for item in seen:
        assert item.unwrap().text == (f"prompt {item.id}" * TOKENS)[:TOKENS]
    assert (ended.state, ended.succeeded) == (BatchJobState.COMPLETED, items)
    assert ended.usage.output_tokens == TOKENS * items
    database = Database(store.url)
    await check_counters(database)
    await database.close()
