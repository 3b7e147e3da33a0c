"""Counts what fails while everything is replaced under load: replicas, gateways, configuration, model, whole servers.

A tiny model, so that the moving parts are what is measured. Every answer is checked: it must be whole, and the text of
one of the two model versions, never of both.

    python -m tests.bench.rollout --requests 2000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from qwire.client import AsyncClient, GenerationOptions, QwireError
from tests.bench.local_ray import local_ray
from tests.cluster.conftest import Cluster, app_config, free_port, ready
from tests.cluster.test_sigterm import see_not_serving, start, wait_until_ready
from tests.support.tiny_checkpoint import write_tiny_checkpoint

OPTIONS: GenerationOptions = {"max_output_tokens": 60, "ignore_eos": True, "temperature": 0.0}
APP = "rollout"
EVENTS = 6

Event = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Load:
    """Workers that ask without a pause, and what they got."""

    client: AsyncClient
    texts: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    slowest_s: float = 0.0

    @property
    def requests(self) -> int:
        """Requests that ended."""
        return self.texts.total() + self.failures.total()

    async def run_beside(self, event: Awaitable[None], requests: int, concurrency: int) -> None:
        """Ask until the event is over and enough requests have ended."""
        over = asyncio.ensure_future(event)

        async def work() -> None:
            while not over.done() or self.requests < requests:
                await self._ask()

        await asyncio.gather(*(work() for _ in range(concurrency)))
        await over

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            async with self.client.stream("same prompt", **OPTIONS) as stream:
                text = (await stream.generation()).text
        except QwireError as error:
            self.failures[f"{type(error).__name__}: {error}"] += 1
        else:
            self.texts[text] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


async def under_load(
    name: str, target: str, event: Event, requests: int, expected: set[str], *, concurrency: int = 8
) -> tuple[int, int]:
    """Run one event under load; return how many requests there were and how many failed."""
    async with AsyncClient(target) as client:
        await ready(client)
        load = Load(client)
        await load.run_beside(event(), requests, concurrency)
    for text, count in load.texts.items():
        if text not in expected:
            load.failures["a text of neither model"] += count
    failed = load.failures.total()
    print(f"{name:32} {load.requests:5} requests, {failed} failed, slowest {load.slowest_s:.1f} s", flush=True)
    for failure, count in load.failures.items():
        print(f"    {count} x {failure}")
    return load.requests, failed


async def text_of(target: str) -> str:
    async with AsyncClient(target) as client:
        await ready(client)
        return (await client.generate("same prompt", **OPTIONS)).text


async def running(handle: Any, method: str) -> int:
    """How many replicas of a deployment answer; one that dies does not."""
    answers = handle.broadcast(method).results_async(timeout_s=10, return_exceptions=True)
    return sum(not isinstance(answer, BaseException) for answer in await answers)


def terminate(deployment: str) -> None:
    """Send SIGTERM to one replica's process."""
    workers = psutil.Process().children(recursive=True)
    next(one for one in workers if f"ServeReplica:{APP}:{deployment}" in " ".join(one.cmdline())).terminate()


async def on_ray(folders: tuple[Path, Path], texts: tuple[str, str], requests: int) -> list[tuple[int, int]]:
    """Replace the parts of an application."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    config = app_config(
        {"tiny": folders[0]},
        min_replicas=1,
        max_replicas=3,
        target_tokens=200,
        upscale_delay_s=0.5,
        downscale_delay_s=2.0,
        surge_percent=100,
    )
    gateways = {"max_replicas": 2, "target_open_streams": 5, "upscale_delay_s": 0.5, "downscale_delay_s": 2.0}
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update=gateways)})
    (model,) = config.models
    tuned = model.model_copy(update={"engine": replace(model.engine, max_running=6)})
    other = tuned.model_copy(update={"source": str(folders[1])})
    first = Cluster(config, app=APP)
    second, third = (replace(first, config=config.model_copy(update={"models": (one,)})) for one in (tuned, other))
    await asyncio.to_thread(first.deploy)

    async def until(handle: Any, method: str, enough: Callable[[int], bool]) -> None:
        async with asyncio.timeout(180):
            while not enough(await running(handle, method)):  # noqa: ASYNC110 - of another process's state there is no event
                await asyncio.sleep(0.3)

    async def replicas(enough: Callable[[int], bool]) -> None:
        await until(first.replicas("tiny"), "stats", enough)

    async def gateway_count(enough: Callable[[int], bool]) -> None:
        await until(serve.get_app_handle(APP), "serves", enough)

    async def grow_and_lose_a_replica() -> None:
        await replicas(lambda count: count > 1)
        terminate("model-tiny")
        await replicas(lambda count: count > 1)

    async def grow_and_lose_a_gateway() -> None:
        await gateway_count(lambda count: count > 1)
        terminate("gateway")
        await asyncio.sleep(1.0)
        await gateway_count(lambda count: count > 1)

    async def shrink() -> None:
        await asyncio.gather(replicas(lambda count: count == 1), gateway_count(lambda count: count == 1))

    old, new = {texts[0]}, {texts[1]}
    return [
        await under_load("scale-up, SIGTERM to a replica", first.target, grow_and_lose_a_replica, requests, old),
        await under_load("scale-up, SIGTERM to a gateway", first.target, grow_and_lose_a_gateway, requests, old),
        await under_load("scale-down of both", first.target, shrink, requests, old, concurrency=2),
        await under_load("a new configuration", first.target, lambda: asyncio.to_thread(second.deploy), requests, old),
        await under_load(
            "a new model version", first.target, lambda: asyncio.to_thread(third.deploy), requests, old | new
        ),
    ]


async def two_servers(folder: Path, model: Path, text: str, requests: int) -> tuple[int, int]:
    """Send SIGTERM to one of two servers that the client knows."""
    ports = free_port(), free_port()
    places = [folder / str(port) for port in ports]
    for place in places:
        place.mkdir()
    servers = [start(place, model, port, ["--no-ray"]) for place, port in zip(places, ports, strict=True)]
    try:
        for server, port in zip(servers, ports, strict=True):
            async with AsyncClient(f"127.0.0.1:{port}") as client:
                await wait_until_ready(client, server)

        async def stop_one() -> None:
            await asyncio.sleep(1.0)
            servers[0].terminate()
            began = time.monotonic()
            await see_not_serving(ports[0])
            print(f"NOT_SERVING after {time.monotonic() - began:.3f} s")
            code = await asyncio.to_thread(servers[0].wait)
            if code:
                raise SystemExit(f"the server's exit code is {code}")

        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        return await under_load("SIGTERM to one of two servers", target, stop_one, requests, {text})
    finally:
        for server in servers:
            server.kill()
            server.wait()


async def texts_of(folder: Path, models: tuple[Path, Path]) -> tuple[str, str]:
    """What each model says, undisturbed."""
    texts: list[str] = []
    for number, model in enumerate(models):
        place, port = folder / f"alone-{number}", free_port()
        place.mkdir()
        server = start(place, model, port, ["--no-ray"])
        try:
            async with AsyncClient(f"127.0.0.1:{port}") as client:
                await wait_until_ready(client, server)
            texts.append(await text_of(f"127.0.0.1:{port}"))
        finally:
            server.kill()
            server.wait()
    return texts[0], texts[1]


def main() -> None:
    arguments = _parse()
    each = -(-arguments.requests // EVENTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "a", folder / "b"
        for seed, model in enumerate(models, start=1):
            model.mkdir()
            write_tiny_checkpoint(model, seed=seed)
        texts = asyncio.run(texts_of(folder, models))
        results = [asyncio.run(two_servers(folder, models[0], texts[0], each))]
        with local_ray():
            results += asyncio.run(on_ray(models, texts, each))
    requests, failed = (sum(column) for column in zip(*results, strict=True))
    print(f"{requests} requests, {failed} failed")
    sys.exit(failed > 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="in all, an equal share beside each event")
    return parser.parse_args()


if __name__ == "__main__":
    main()
