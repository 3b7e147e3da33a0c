"""`qwire-serve` is told to stop while a stream is open: health turns, the stream ends whole, the exit code is 0."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from qwire.client import AsyncClient
from tests.cluster.conftest import free_port, ready

TOKENS = 2500


def start(folder: Path, model: Path, port: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the command with a tiny model."""
    config = {
        "models": [
            {
                "source": str(model),
                "id": "tiny",
                "engine": {"device": "cpu", "threads": 1, "kv_capacity_tokens": 20_000},
                "replicas": {"num_cpus": 0.1, "stream_interval_s": 0.0},
            }
        ],
        "gateway": {"server": {"port": port, "drain_grace_s": 120.0, "health": {"starting_interval_s": 0.1}}},
        "telemetry": {"log_level": "WARNING"},
    }
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": [{"args": config}]}))
    command = [Path(sys.executable).parent / "qwire-serve", str(file), *arguments]
    with (folder / "serve.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


@pytest.mark.parametrize("arguments", [("--no-ray",), ()], ids=["no-ray", "ray"])
async def test_sigterm_finishes_open_streams(
    tiny_folders: tuple[Path, Path], tmp_path: Path, arguments: Sequence[str]
) -> None:
    port = free_port()
    process = start(tmp_path, tiny_folders[0], port, arguments)
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client, asyncio.timeout(250):
            await wait_until_ready(client, process)
            async with client.stream("endless", max_output_tokens=TOKENS, ignore_eos=True) as stream:
                async for _ in stream.text_stream:
                    break
                process.terminate()
                await see_not_serving(port)
                assert process.poll() is None  # it was told before the stream was over
                generation = await stream.generation()
        assert generation.finished.usage.output_tokens == TOKENS
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        process.kill()
        process.wait()


async def wait_until_ready(client: AsyncClient, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server that is being started serves."""
    while process.poll() is None:
        try:
            await ready(client)
        except Exception:  # noqa: BLE001 - nobody listens yet
            await asyncio.sleep(0.2)
        else:
            await asyncio.sleep(1.0)  # the command takes signals as a wish to drain once it has said how to call it
            return
    raise AssertionError(process.returncode)


async def see_not_serving(port: int) -> None:
    """Wait until a server's health says that it serves no longer."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = HealthStub(channel)
        while (await stub.Check(HealthCheckRequest())).status == HealthCheckResponse.SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
