"""How fast a job of many tiny items goes through the store, and what memory it takes on the way.

Client, gateway, runner and an engine that echoes share a process; the store is SQLite in a file or a PostgreSQL of the
benchmark's own. Every phase is told in items per second, each tenth of it apart, so that a rate that falls is seen.

    python -m tests.bench.jobs --items 100000
    python -m tests.bench.jobs --items 1000000 --store postgresql
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

from qwire.client import AsyncClient, BatchItem, BatchJobItem, TextPrompt, Upload
from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.text.processor import TextProcessor
from tests.contract.edge import CALM, card_of, open_edge, served
from tests.support.byte_tokenizer import write_byte_tokenizer
from tests.support.postgres import postgres

_PARTS = 10


class Phase:
    """Counts items, and prints the rate of each tenth."""

    def __init__(self, name: str, items: int) -> None:
        self._name = name
        self._items = items
        self._began = self._last = time.perf_counter()
        self._done = 0
        self._told = 0

    def add(self, items: int = 1) -> None:
        """Take note of items."""
        self._done += items
        if self._done - self._told >= self._items / _PARTS:
            now = time.perf_counter()
            rate = (self._done - self._told) / (now - self._last)
            memory = psutil.Process().memory_info().rss / 2**20
            print(f"| {self._name} | {self._done:,} | {rate:,.0f} | {memory:,.0f} |", flush=True)
            self._told, self._last = self._done, now

    def end(self) -> None:
        """Print the rate of the whole."""
        rate = self._done / (time.perf_counter() - self._began)
        print(f"| **{self._name}** | {self._done:,} | **{rate:,.0f}** | |", flush=True)


async def measure(items: int, store_url: str, folder: Path) -> None:
    """Run one job and print its phases."""
    processor = TextProcessor.from_folder(write_byte_tokenizer(folder / "tokenizer"))
    batch = BatchConfig(store_url=store_url, runner_concurrency=256)
    engine = FakeEngine(card=card_of(processor), max_running=256, max_waiting=256)
    print("| phase | items | items/s | memory of all, MiB |\n|---|---|---|---|")
    async with (
        open_edge([await served(processor, engine)], config=replace(CALM, batch=batch)) as edge,
        AsyncClient(f"127.0.0.1:{edge.port}") as client,
    ):
        job = await client.jobs.create()
        phase, appended = Phase("append", items), 0

        def progress(upload: Upload) -> None:
            nonlocal appended
            phase.add(upload.accepted - appended)
            appended = upload.accepted

        await client.jobs.upload(job.id, _prompts(items), progress=progress, max_output_tokens=1, token_info=False)
        phase.end()
        runner = BatchRunner(edge.registry, batch)
        await runner.start()
        await _count("run and watch", items, client.jobs.results(job.id))
        await runner.close()
        await _count("list", items, client.jobs.items(job.id))
        began = time.perf_counter()
        await client.jobs.delete(job.id)
        print(f"| **delete** | {items:,} | **{items / (time.perf_counter() - began):,.0f}** | |")


async def _count(name: str, items: int, results: AsyncIterator[BatchJobItem]) -> None:
    phase, seen = Phase(name, items), 0
    async for item in results:
        assert item.generation is not None
        assert item.generation.text == "x", "an outcome is wrong"
        seen += 1
        phase.add()
    phase.end()
    assert seen == items, f"{items - seen} outcomes are missing"


def _prompts(items: int) -> Iterator[BatchItem]:
    return (BatchItem(TextPrompt("x"), id=f"item-{number}") for number in range(items))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qwire-jobs-")))
        url = f"sqlite:///{folder / 'jobs.db'}"
        if arguments.store == "postgresql":
            url = stack.enter_context(postgres())
        asyncio.run(measure(arguments.items, url, folder))


if __name__ == "__main__":
    main()
