"""Gateways follow the open streams, up and down, and no stream notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from qwire.client import AsyncClient, ClientOptions, GenerationOptions
from tests.cluster.conftest import Cluster, app_config, ready

APP = "wide"
OUTPUT: GenerationOptions = {"max_output_tokens": 300, "ignore_eos": True, "temperature": 0.0}
# A connection of its own for each client, and nothing that would hide a stream that was cut.
ALONE = ClientOptions(resume=None, channel_options=(("grpc.use_local_subchannel_pool", 1),))


@pytest.fixture
def wide(ray_cluster: None, tiny_folders: tuple[Path, Path]) -> Generator[Cluster]:  # noqa: ARG001
    """One or two gateways of one replica, quick to come and to go."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    config = app_config({"tiny": tiny_folders[0]})
    settings = {"max_replicas": 2, "target_open_streams": 3, "upscale_delay_s": 0.5, "downscale_delay_s": 1.0}
    cluster = Cluster(
        config.model_copy(update={"gateway": config.gateway.model_copy(update=settings)}),
        app=APP,
    )
    cluster.deploy()
    yield cluster
    serve.delete(APP)


async def open_streams() -> list[float]:
    """Return what each gateway reports."""
    from ray import serve  # noqa: PLC0415 - as above

    handle: Any = serve.get_app_handle(APP)
    answers = await handle.broadcast("record_autoscaling_stats").results_async(timeout_s=10, return_exceptions=True)
    return [answer["open_streams"] for answer in answers if not isinstance(answer, BaseException)]


async def until(holds: Callable[[list[float]], bool]) -> None:
    while not holds(await open_streams()):  # noqa: ASYNC110 - of another process's state there is no event
        await asyncio.sleep(0.2)


async def test_gateways_come_with_streams_and_go_without_losing_one(wide: Cluster) -> None:
    texts: list[str] = []
    most = 8

    async def ask(number: int) -> None:
        while number < most:
            async with AsyncClient(wide.target, ALONE) as client:
                texts.append((await client.stream("same prompt", **OUTPUT).generation()).text)

    async def grow_and_shrink() -> None:
        nonlocal most
        try:
            await until(lambda gateways: len(gateways) == 2 and min(gateways) > 0)
            most = 2  # the others finish what they have
            await until(lambda gateways: len(gateways) == 1)
            told = len(texts)
            while len(texts) < told + 4:  # noqa: ASYNC110 - of another task's list there is no event
                await asyncio.sleep(0.1)
        finally:
            most = 0

    async with asyncio.timeout(200), AsyncClient(wide.target) as client:
        await ready(client)
        assert len(await open_streams()) == 1
        whole = (await client.generate("same prompt", **OUTPUT)).text
        # A stream that fails ends all, and is told.
        async with asyncio.TaskGroup() as group:
            group.create_task(grow_and_shrink())
            for number in range(most):
                group.create_task(ask(number))
    assert set(texts) == {whole}
