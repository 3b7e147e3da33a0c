"""A gateway that is killed under open streams: Serve replaces it, and the clients' streams go on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from qwire.client import AsyncClient, Generation, GenerationOptions
from tests.cluster.conftest import Cluster, app_config, ready

LONG: GenerationOptions = {"max_output_tokens": 600, "ignore_eos": True}
OPTIONS: tuple[GenerationOptions, ...] = (
    {**LONG, "temperature": 0.0},
    {**LONG, "temperature": 0.0, "repetition_penalty": 1.3},
    {**LONG, "temperature": 2.0, "seed": 11, "top_p": 0.95},
    {**LONG, "temperature": 1.0, "seed": 12},
)


@pytest.fixture
def headless(ray_cluster: None, tiny_folders: tuple[Path, Path]) -> Generator[Cluster]:  # noqa: ARG001
    """An application of its own, whose gateway may die."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    cluster = Cluster(app_config({"headless": tiny_folders[0]}), app="headless")
    cluster.deploy()
    yield cluster
    serve.delete("headless")


def kill_gateway() -> None:
    """SIGKILL the only gateway's process, as the kernel's memory killer does it."""
    titles = {path.parent.name: path.read_bytes() for path in processes()}
    (pid,) = [int(pid) for pid, title in titles.items() if title.startswith(b"ray::ServeReplica:headless:gateway")]
    os.kill(pid, signal.SIGKILL)


def processes() -> list[Path]:
    """The command line of every process that this user may look at."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]


async def test_streams_survive_the_death_of_their_gateway(headless: Cluster) -> None:
    async with AsyncClient(headless.target) as client:
        await ready(client)
        undisturbed = [await client.generate("endless", **options) for options in OPTIONS]
        going, killed = asyncio.Barrier(len(OPTIONS)), asyncio.Event()

        async def stream(options: GenerationOptions) -> tuple[Generation, bool]:
            async with client.stream("endless", **options) as stream:
                for _ in range(5):
                    await anext(stream)
                first = stream.generation_id
                if await going.wait() == 0:
                    kill_gateway()
                    killed.set()
                await killed.wait()
                generation = await stream.generation()
                return generation, stream.generation_id != first

        for whole, (generation, resumed) in zip(undisturbed, await asyncio.gather(*map(stream, OPTIONS)), strict=True):
            assert resumed
            assert [token.id for token in generation.tokens] == [token.id for token in whole.tokens]
            assert generation.text == whole.text
            assert generation.usage.output_tokens == whole.usage.output_tokens == 600
            assert generation.finished.reason is whole.finished.reason
