"""A new model version is deployed under load: nothing fails, and no text is of two models."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.client import AsyncClient, GenerationOptions
from tests.cluster.conftest import APP, Cluster, app_config, ready

SHORT: GenerationOptions = {"max_output_tokens": 24, "ignore_eos": True, "temperature": 0.0}
LONG: GenerationOptions = {**SHORT, "max_output_tokens": 900}


@pytest.fixture
def rolling(ray_cluster: None, tiny_folders: tuple[Path, Path]) -> Generator[tuple[Cluster, Cluster]]:  # noqa: ARG001
    """Two replicas of a model, and the same application with another model under the same id."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    before = Cluster(
        app_config({"rolling": tiny_folders[0]}, min_replicas=2, max_replicas=2, surge_percent=50), app=f"{APP}-rolling"
    )
    model = before.config.models[0].model_copy(update={"source": str(tiny_folders[1])})
    after = replace(before, config=before.config.model_copy(update={"models": (model,)}))
    before.deploy()
    yield before, after
    serve.delete(before.app)


async def text_of(client: AsyncClient, options: GenerationOptions) -> str:
    async with client.stream("same prompt", **options) as stream:
        return (await stream.generation()).text


async def test_streams_end_as_the_model_that_began_them(rolling: tuple[Cluster, Cluster]) -> None:
    before, after = rolling
    async with AsyncClient(before.target) as client:
        await ready(client)
        old = {length: await text_of(client, options) for length, options in (("short", SHORT), ("long", LONG))}
        deployed = asyncio.create_task(asyncio.to_thread(after.deploy))
        long_streams = [asyncio.create_task(text_of(client, LONG)) for _ in range(4)]
        short_texts: Counter[str] = Counter()
        while not deployed.done() or sum(short_texts.values()) < 60:
            short_texts.update(await asyncio.gather(*(text_of(client, SHORT) for _ in range(4))))
            await asyncio.sleep(0.1)
        await deployed
        assert {await stream for stream in long_streams} == {old["long"]}
    async with AsyncClient(after.target) as client:
        await ready(client)
        new = await text_of(client, SHORT)
    assert new != old["short"]
    assert set(short_texts) <= {old["short"], new}
    assert short_texts[new]
