"""A batch job over real Ray: client, gateway, job store, runner and replicas are processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from qwire.client import AsyncClient, BatchJobItem, BatchJobState, Priority
from qwire.rpc.config import BatchConfig
from tests.cluster.conftest import Cluster, app_config, ready

ITEMS = 60


@pytest.fixture
async def jobs_cluster(
    ray_cluster: None,  # noqa: ARG001
    tiny_folders: tuple[Path, Path],
    tmp_path: Path,
) -> AsyncGenerator[Cluster]:
    config = app_config({"tiny": tiny_folders[0]})
    batch = BatchConfig(store_url=f"sqlite:///{tmp_path / 'jobs.db'}", lease_s=2.0, checkpoint_s=0.2)
    gateway = config.gateway.model_copy(update={"server": replace(config.gateway.server, batch=batch)})
    cluster = Cluster(config.model_copy(update={"gateway": gateway}), app="jobs")
    cluster.deploy()
    yield cluster
    from ray import serve  # noqa: PLC0415 - reads its environment when it is imported

    serve.delete("jobs")


def _runner_pid() -> int:
    found = psutil.process_iter(["cmdline"])
    return next(one.pid for one in found if "ServeReplica:jobs:batch" in " ".join(one.info["cmdline"] or ()))


async def test_a_job_outlives_its_runner(jobs_cluster: Cluster) -> None:
    async with AsyncClient(jobs_cluster.target) as client:
        await ready(client)
        prompts = [f"prompt {number}" for number in range(ITEMS)]
        alone = [
            (await client.generate(prompt, max_output_tokens=30, ignore_eos=True, temperature=0)).text
            for prompt in prompts[:5]
        ]
        job = await client.jobs.create(priority=Priority.LOW)
        await client.jobs.upload(job.id, prompts, max_output_tokens=30, ignore_eos=True, temperature=0)
        seen: dict[str, BatchJobItem] = {}
        async for item in client.jobs.results(job.id):
            if not seen:
                os.kill(_runner_pid(), signal.SIGKILL)
            assert item.id not in seen
            seen[item.id] = item
        assert [seen[str(number)].unwrap().text for number in range(5)] == alone
        assert sorted(map(int, seen)) == list(range(ITEMS))
        ended = await client.jobs.get(job.id)
        assert (ended.state, ended.succeeded) == (BatchJobState.COMPLETED, ITEMS)
        assert ended.usage.output_tokens == 30 * ITEMS
