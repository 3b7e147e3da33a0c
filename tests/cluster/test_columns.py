"""Columns by Ray Data, as the command line runs it beside a server: what it writes, what it says, what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwire.client import AsyncClient
from qwire.rpc.config import BatchConfig
from tests.cluster.conftest import Cluster, app_config, ready

ROWS = 40
ALIKE = {"max_output_tokens": 20, "ignore_eos": True, "temperature": 0}


@pytest.fixture
async def server(
    ray_cluster: None,  # noqa: ARG001
    tiny_folders: tuple[Path, Path],
    tmp_path: Path,
) -> AsyncGenerator[Cluster]:
    config = app_config({"tiny": tiny_folders[0]})
    batch = BatchConfig(store_url=f"sqlite:///{tmp_path / 'jobs.db'}")
    gateway = config.gateway.model_copy(update={"server": replace(config.gateway.server, batch=batch)})
    cluster = Cluster(config.model_copy(update={"gateway": gateway}), app="columns")
    cluster.deploy()
    yield cluster
    from ray import serve  # noqa: PLC0415 - reads its environment when it is imported

    serve.delete("columns")


@pytest.fixture
def interruptible() -> Generator[None]:
    """Where all tests run in the background of a shell, processes are told to ignore interrupts, and so are theirs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(server: Cluster, source: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    import ray  # noqa: PLC0415 - as above

    address = ray.get_runtime_context().gcs_address
    command = [Path(sys.executable).with_name("qwire"), "batch", "run", source, "-o", output, "--engine", "ray-data"]
    command += ["--server", server.target, "--ray-address", address, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_parquet_says_what_a_job_says_and_a_bad_row_is_a_row(server: Cluster, tmp_path: Path) -> None:
    prompts: list[str | None] = [f"prompt {number}" for number in range(ROWS)]
    options: list[dict[str, Any]] = [ALIKE for _ in prompts]
    async with AsyncClient(server.target) as client:
        await ready(client)
        job = await client.jobs.create()
        items = [prompt for prompt in prompts if prompt is not None]
        await client.jobs.upload(job.id, items, max_output_tokens=20, ignore_eos=True, temperature=0)
        texts = {item.id: item.unwrap().text async for item in client.jobs.results(job.id)}
    prompts[7] = None
    options[9] = {**ALIKE, "temperature": -1}
    labels = [number * number for number in range(ROWS)]
    pq.write_table(
        pa.table({"label": labels, "prompt": prompts, "options": options}), tmp_path / "in.parquet", row_group_size=15
    )
    out = finish(start(server, tmp_path / "in.parquet", tmp_path / "out", "--rows-per-file", "10"), code=1)
    assert f"{ROWS} rows: {ROWS - 2} succeeded, 2 failed" in out
    rows = rows_of(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(ROWS))
    assert [row["label"] for row in rows] == labels
    assert [row["prompt"] for row in rows] == prompts
    assert {row["row"] for row in rows if row["error_code"]} == {7, 9}
    assert rows[7]["error_message"] == "row 7.prompt: is missing"
    assert rows[9]["error_code"] == "INVALID_ARGUMENT"
    assert "temperature" in rows[9]["error_message"]
    good = [row for row in rows if not row["error_code"]]
    assert {str(row["row"]): row["output_text"] for row in good} == {
        number: text for number, text in texts.items() if number not in ("7", "9")
    }
    assert {(row["finish_reason"], row["output_tokens"]) for row in good} == {("length", 20)}


@pytest.mark.usefixtures("interruptible")
def test_lines_survive_a_killed_worker_and_an_interrupt(server: Cluster, tmp_path: Path) -> None:
    many = 10 * ROWS  # not done before it is interrupted
    lines = [json.dumps({"id": f"n{number}", "prompt": f"prompt {number}", **ALIKE}) for number in range(many)]
    lines[3] = "not JSON"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    more = ("--rows-per-file", "2")

    def files() -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in output.glob("rows-*.parquet")}

    first = start(server, source, output, *more)
    until(lambda: bool(files()))
    os.kill(_worker_pid(), signal.SIGKILL)
    killed_at = len(files())
    until(lambda: len(files()) > killed_at)
    first.send_signal(signal.SIGINT)
    finish(first, code=130)
    before = files()
    assert before
    assert len(before) < many / 2
    until(lambda: not _worker_pids())

    out = finish(start(server, source, output, *more), code=1)
    assert f"{many} rows: {many - 1} succeeded, 1 failed" in out
    assert before.items() <= files().items()
    rows = rows_of(output)
    assert [row["line"] for row in rows] == lines
    assert [row["row"] for row in rows if row["error_code"]] == [3]
    assert rows[3]["error_message"].startswith("row 3.line: not JSON")
    assert finish(start(server, source, output, *more), code=1) == out  # nothing is left to do


def _worker_pids() -> list[int]:
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if "RowGenerator" in " ".join(one.info["cmdline"] or ())]


def _worker_pid() -> int:
    return _worker_pids()[0]
