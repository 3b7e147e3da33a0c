"""Processes that are killed in the middle of a job: every item has one outcome, and a watch misses none."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qwire.batch.database import Database
from qwire.client import AsyncClient, BatchJobItem, BatchJobState, ClientOptions, ResumeOptions, TextPrompt
from tests.batch.jobs import check_counters
from tests.support.byte_tokenizer import write_byte_tokenizer

ITEMS = 300
TOKENS = 40
KILLS = 6


class Member:
    """A server that comes back on its port after each kill."""

    def __init__(self, store_url: str, tokenizer: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._arguments = (store_url, str(tokenizer), str(self.port))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.job_process", *self._arguments),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"serving\n"

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


@asynccontextmanager
async def members(store_url: str, tokenizer: Path) -> AsyncGenerator[list[Member]]:
    both = [Member(store_url, tokenizer) for _ in range(2)]
    try:
        await asyncio.gather(*(member.start() for member in both))
        yield both
    finally:
        await asyncio.gather(*(member.kill() for member in both))


@pytest.mark.timeout(600)
async def test_every_item_has_one_outcome_whoever_is_killed(database_url: str, tmp_path: Path) -> None:
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    draw = random.Random(11)  # noqa: S311 - a schedule, not a secret
    async with members(database_url, tokenizer) as both:
        target = "ipv4:" + ",".join(f"127.0.0.1:{member.port}" for member in both)
        resume = ResumeOptions(timeout_s=300, max_attempts=1000, initial_backoff_s=0.05, max_backoff_s=0.2)
        async with AsyncClient(target, ClientOptions(resume=resume)) as client:
            job = await client.jobs.create(request_id="job")
            await client.jobs.upload(
                job.id, [TextPrompt(f"prompt {number}") for number in range(ITEMS)], max_output_tokens=TOKENS
            )

            async def kill() -> None:
                for _ in range(KILLS):
                    await asyncio.sleep(draw.uniform(0.2, 1.0))
                    member = draw.choice(both)
                    await member.kill()
                    await asyncio.sleep(draw.uniform(0.0, 0.5))
                    await member.start()

            killing = asyncio.create_task(kill())
            seen = [event async for event in client.jobs.watch(job.id) if isinstance(event, BatchJobItem)]
            await killing
            ended = await client.jobs.get(job.id)
    assert any(item.attempts > 1 for item in seen), "no kill hit an item that ran"
    assert sorted(int(item.id) for item in seen) == list(range(ITEMS))
    cursors = [item.cursor for item in seen]
    assert cursors == sorted(set(cursors))
    for item in seen:
        assert item.unwrap().text == (f"prompt {item.id}" * TOKENS)[:TOKENS]
    assert (ended.state, ended.succeeded) == (BatchJobState.COMPLETED, ITEMS)
    assert ended.usage.output_tokens == TOKENS * ITEMS
    database = Database(database_url)
    await check_counters(database)
    await database.close()
