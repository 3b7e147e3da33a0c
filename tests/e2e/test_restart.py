"""The whole server is killed in mid-stream and started again: the client's stream goes on, token by token."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from qwire.client import Client, GenerationOptions
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

LONG: GenerationOptions = {"max_output_tokens": 800, "ignore_eos": True}


def start(config: Path, port: int, log: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `qwire-serve`, and wait until it has generated a token."""
    command = [Path(sys.executable).with_name("qwire-serve"), config, "--port", str(port), *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + 240
    while "In another terminal" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it and all that it started, Ray's processes among them: nobody has time for a last word."""
    processes = [psutil.Process(process.pid)] if process.poll() is None else []
    processes += [child for one in processes for child in one.children(recursive=True)]
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(processes, timeout=30)
    process.wait()


SAMPLINGS: tuple[GenerationOptions, ...] = (
    {"temperature": 0.0},
    {"temperature": 1.5, "seed": 5},
    {"temperature": 1.0},
)


@pytest.mark.parametrize(
    ("sampling", "arguments"),
    # A cluster takes its time to start: once is enough, with a seed that the server chose.
    [*((one, ["--no-ray"]) for one in SAMPLINGS), (SAMPLINGS[-1], [])],
    ids=str,
)
def test_a_stream_survives_the_restart_of_everything(
    tmp_path: Path, sampling: GenerationOptions, arguments: Sequence[str]
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    engine = {"device": "cpu", "threads": 1, "kv_capacity_tokens": 4000}
    model = {"source": str(write_tiny_checkpoint(folder, seed=1)), "id": "tiny", "engine": engine}
    config, log = tmp_path / "serve.yaml", tmp_path / "serve.log"
    config.write_text(yaml.safe_dump({"applications": [{"args": {"models": [model]}}]}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(config, port, log, arguments)
    try:
        with Client(f"127.0.0.1:{port}") as client:
            options: GenerationOptions = {**LONG, **sampling}
            stream = client.stream("endless", **options)
            for _ in range(30):
                next(stream)
            kill(process)
            process = start(config, port, log, arguments)
            generation = stream.generation()
            again: GenerationOptions = {**options, "seed": generation.started.sampling.seed}
            whole = client.generate("endless", **again)
        assert [token.id for token in generation.tokens] == [token.id for token in whole.tokens]
        assert generation.text == whole.text
        assert generation.usage.output_tokens == 800
        assert generation.started.generation_id != stream.generation_id
    finally:
        kill(process)
