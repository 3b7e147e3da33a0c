"""How fast a job of many tiny items goes through the store, and what memory it takes on the way.

Client, gateway, runner and store are processes of their own; the engine is one that echoes, and the store a SQLite file
or a PostgreSQL of the benchmark's own. Every phase is told in items per second, its first and its last tenth beside the
whole, so that a rate that falls is seen. `--plot` draws both over time.

    python -m tests.bench.jobs --items 100000
    python -m tests.bench.jobs --items 1000000 --store postgresql --plot docs/images/jobs-postgresql.svg
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from qwire.client import AsyncClient, BatchItem, BatchJobItem, ClientOptions, TextPrompt, Upload
from tests.bench.job_record import Phase, Record
from tests.support.byte_tokenizer import write_byte_tokenizer
from tests.support.postgres import postgres


@asynccontextmanager
async def process(role: str, store_url: str, tokenizer: Path) -> AsyncGenerator[tuple[int, int]]:
    """Run a process of the server; yield its id and its port."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.job_server", role, store_url, str(tokenizer)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        yield child.pid, int(await child.stdout.readline())
    finally:
        child.kill()
        await child.wait()


async def measure(items: int, store_url: str, folder: Path, record: Record) -> None:
    """Run one job and take note of its phases."""
    tokenizer = write_byte_tokenizer(folder / "tokenizer")
    async with (
        process("gateway", store_url, tokenizer) as (gateway, port),
        AsyncClient(f"127.0.0.1:{port}", ClientOptions(timeout_s=600)) as client,
    ):
        record.add_process("gateway", gateway)
        job = await client.jobs.create()
        with record.phase("append", items) as phase:

            def progress(upload: Upload) -> None:
                phase.done = upload.accepted

            await client.jobs.upload(job.id, _prompts(items), progress=progress, max_output_tokens=1, token_info=False)
        async with process("runner", store_url, tokenizer) as (runner, _):
            record.add_process("runner", runner)
            with record.phase("run and watch", items) as phase:
                await _count(phase, items, client.jobs.results(job.id))
            record.remove_process("runner")
        with record.phase("list", items) as phase:
            await _count(phase, items, client.jobs.items(job.id))
        with record.phase("delete", items) as phase:
            await client.jobs.delete(job.id)
            phase.done = items
        record.remove_process("gateway")


async def _count(phase: Phase, items: int, results: AsyncIterator[BatchJobItem]) -> None:
    async for item in results:
        assert item.unwrap().text == "x", "an outcome is wrong"
        phase.done += 1
    assert phase.done == items, f"{items - phase.done} outcomes are missing"


def _prompts(items: int) -> Iterator[BatchItem]:
    return (BatchItem(TextPrompt("x"), id=f"item-{number}") for number in range(items))


async def _run(arguments: argparse.Namespace, store_url: str, folder: Path, record: Record) -> None:
    sampling = asyncio.create_task(record.sample())
    try:
        await measure(arguments.items, store_url, folder, record)
    finally:
        sampling.cancel()
    record.tell()
    if arguments.plot is not None:
        record.draw(arguments.plot)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qwire-jobs-")))
        url = f"sqlite:///{folder / 'jobs.db'}"
        record = Record(folder)
        if arguments.store == "postgresql":
            server = stack.enter_context(postgres(syncs=True))
            url = server.url
            record.add_process("PostgreSQL", server.pid, shares=True)
        asyncio.run(_run(arguments, url, folder, record))


if __name__ == "__main__":
    main()
