"""Replicas follow the load."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest

from qwire.client import AsyncClient
from tests.cluster.conftest import Cluster, app_config, ready


@pytest.fixture
def elastic(ray_cluster: None, tiny_folders: tuple[Path, Path]) -> Generator[Cluster]:  # noqa: ARG001
    """One to two replicas, quick to grow."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    config = app_config({"elastic": tiny_folders[0]}, max_replicas=2, target_ongoing_requests=1.0, upscale_delay_s=0.5)
    cluster = Cluster(config, app="elastic")
    cluster.deploy()
    yield cluster
    serve.delete("elastic")


async def both_busy(elastic: Cluster) -> None:
    """Wait until there are two replicas and each has its share."""
    while True:
        stats = await elastic.stats("elastic")
        if len(stats) == 2 and all(one.running for one in stats):
            return
        await asyncio.sleep(0.2)


async def test_load_adds_a_replica(elastic: Cluster) -> None:
    async with AsyncClient(elastic.target) as client:
        await ready(client)
        assert len(await elastic.stats("elastic")) == 1

        async def keep_busy() -> None:
            while True:
                await client.generate("busy", max_output_tokens=500, ignore_eos=True)

        load = [asyncio.ensure_future(keep_busy()) for _ in range(6)]
        try:
            async with asyncio.timeout(120):
                await both_busy(elastic)
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
