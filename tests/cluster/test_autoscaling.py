"""Replicas follow the load: up, down to none, and back when somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest

from qwire.client import AsyncClient, ServingState
from qwire.engine.protocol import EngineStats
from tests.cluster.conftest import Cluster, app_config, ready


@pytest.fixture
def elastic(ray_cluster: None, tiny_folders: tuple[Path, Path]) -> Generator[Cluster]:  # noqa: ARG001
    """None to two replicas, quick to come and to go."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    config = app_config(
        {"elastic": tiny_folders[0]},
        min_replicas=0,
        max_replicas=2,
        target_tokens=400,
        upscale_delay_s=0.5,
        downscale_delay_s=1.0,
        scale_to_zero_delay_s=4.0,
    )
    cluster = Cluster(config, app="elastic")
    cluster.deploy()
    yield cluster
    serve.delete("elastic")


async def running(elastic: Cluster) -> list[EngineStats]:
    """What the replicas that run report."""
    from ray.serve.exceptions import DeploymentUnavailableError  # noqa: PLC0415 - as above

    try:
        return await elastic.stats("elastic")
    except DeploymentUnavailableError:
        return []  # none runs


async def until_both_are_busy(elastic: Cluster) -> None:
    while True:
        stats = await running(elastic)
        if len(stats) == 2 and all(one.running for one in stats):
            return
        await asyncio.sleep(0.2)


async def test_what_waits_goes_to_the_replica_that_is_added_for_it(elastic: Cluster) -> None:
    async with AsyncClient(elastic.target) as client, asyncio.timeout(200):
        await ready(client)
        assert len(await running(elastic)) == 1
        # All at once, and nothing after that: only those that wait can be what the new replica does.
        waiting = [client.generate("wait", max_output_tokens=1500, ignore_eos=True) for _ in range(48)]
        answers = asyncio.gather(*waiting)
        await until_both_are_busy(elastic)
        assert not answers.done()
        assert {answer.usage.output_tokens for answer in await answers} == {1500}


async def test_load_adds_a_replica_idleness_removes_all_and_a_request_brings_one_back(elastic: Cluster) -> None:
    async with AsyncClient(elastic.target) as client, asyncio.timeout(200):
        await ready(client)
        assert len(await running(elastic)) == 1

        async def keep_busy() -> None:
            while True:
                await client.generate("busy", max_output_tokens=500, ignore_eos=True)

        load = [asyncio.ensure_future(keep_busy()) for _ in range(6)]
        try:
            await until_both_are_busy(elastic)
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)

        while await running(elastic):  # noqa: ASYNC110 - of another process's state there is no event
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)  # several looks of the health monitor, none of which may wake it
        assert not await running(elastic)
        assert (await client.health()).state is ServingState.READY
        answer = await client.generate("awake?", max_output_tokens=3, ignore_eos=True)
        assert answer.finished.usage.output_tokens == 3
