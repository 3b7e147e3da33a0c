"""Half an hour of traffic of every kind, and whether anything grows: `make soak`.

    make soak                                      # 30 minutes, the first 6 of which are warm-up
    make soak ARGS="--minutes 120 --warm-up 20"
    make soak ARGS="--again --warm-up 15"          # the same samples, judged from another moment on

A gateway and a replica of a tiny model on a real Ray of its own. Rounds of traffic take turns with moments in which no
call is open. At these moments each process is judged: a line through its memory, and through the numbers of
its descriptors, threads, asyncio tasks and open spans. Exit status 0 = all calls ended as they had to, and nothing of
ours grows.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil

from qwire.telemetry.setup import TelemetryConfig
from tests.chaos import process
from tests.chaos.cluster import MODEL, Fleet, running
from tests.chaos.soak.report import Report
from tests.chaos.soak.vitals import Sample, SpanCounter, look, tasks_by_deployment
from tests.support.otlp_receiver import listening

ROOT = Path(__file__).parents[3]
IMAGE, PAGE = ROOT / "docs" / "images" / "soak.svg", ROOT / "docs" / "chaos.md"
OURS = ("gateway", "replica", "client")
RAYS = {"Serve's controller": "ray::ServeController", "raylet": "raylet", "GCS": "gcs_server"}
ROUND_S, PAUSE_S, LOOK_S = 24.0, 6.0, 4.0
# Tasks and spans are told each second, so that a pause is long enough for each process to tell that it is idle.
_TOLD_S = 1.0
_ENVIRONMENT = {
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
    "RAY_SERVE_EVENT_LOOP_MONITORING_INTERVAL_S": f"{_TOLD_S:g}",
}


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=6.0, help="minutes at the beginning that are not judged")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic")
    parser.add_argument("--samples", type=Path, default=ROOT / "build" / "soak.csv", help="where every sample is kept")
    parser.add_argument("--again", action="store_true", help="judge the samples that are kept, without another run")
    parser.add_argument("--write", action="store_true", help="write docs/chaos.md and docs/images/soak.svg")
    options = parser.parse_args()
    calls = options.samples.with_suffix(".json")
    if not options.again:
        calls.unlink(missing_ok=True)
        calls.write_text(json.dumps(_run(options)))
    with options.samples.open(newline="") as file:
        samples = [Sample.of(row) for row in csv.DictReader(file)]
    report = Report(samples, options.warm_up * 60, OURS, **json.loads(calls.read_text()))
    page = f"{report.markdown()}\n\n{samples[-1].at_s / 60:.0f} minutes, the first {options.warm_up:g} of them warm-up."
    print(page)
    if options.write:
        report.draw(IMAGE)
        before, _, rest = PAGE.read_text().partition("<!-- soak -->\n")
        _, _, after = rest.partition("<!-- /soak -->\n")
        PAGE.write_text(f"{before}<!-- soak -->\n{page}\n<!-- /soak -->\n{after}")
    return 0 if report.passed else 1


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Soak; return what became of the calls. The samples are in their file."""
    os.environ.update(_ENVIRONMENT)  # noqa: TID251 - of the processes that are looked at
    options.samples.parent.mkdir(parents=True, exist_ok=True)
    ray_config = {"metrics_report_interval_ms": int(_TOLD_S * 1000)}
    with listening(SpanCounter()) as counter, options.samples.open("w", newline="") as file:
        telemetry = TelemetryConfig(otlp_endpoint=counter.endpoint, metric_interval_s=_TOLD_S, log_level="WARNING")
        with running(size=1, telemetry=telemetry, ray_config=ray_config) as fleet:
            soak = Soak(fleet, counter, file)
            asyncio.run(soak.run(options.minutes * 60, options.seed))
    return {key: soak.answer[key] for key in ("ended", "failures")}


class Soak:
    """Traffic, pauses and looks.

    Args:
        fleet: The application.
        counter: Knows its open spans.
        file: Takes every sample, as CSV.

    Attributes:
        answer: What the traffic said last.
    """

    def __init__(self, fleet: Fleet, counter: SpanCounter, file: TextIO) -> None:
        self._fleet = fleet
        self._counter = counter
        self._file = file
        self._rows = csv.DictWriter(file, [field.name for field in dataclasses.fields(Sample)])
        import ray  # noqa: PLC0415 - reads its environment when it is imported

        self._metrics_port: int = ray.nodes()[0]["MetricsExportPort"]
        self._began = time.monotonic()
        self.answer: dict[str, Any] = {}

    async def run(self, seconds: float, seed: int) -> None:
        """Make rounds of traffic and look, for as long."""
        await self._fleet.whole()
        self._rows.writeheader()
        self._began = time.monotonic()
        command = (sys.executable, "-m", "tests.chaos.soak.load", self._fleet.cluster.target, str(seed))
        client = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        processes = self._processes(client.pid)
        try:
            while time.monotonic() < self._began + seconds:
                await self._round(client, processes)
        finally:
            client.kill()
            await client.wait()

    async def _round(self, client: asyncio.subprocess.Process, processes: Mapping[str, psutil.Process]) -> None:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(f"{ROUND_S}\n".encode())
        answer = asyncio.ensure_future(client.stdout.readline())
        while not answer.done():
            await asyncio.wait((answer,), timeout=LOOK_S)
            if not answer.done():
                await self._look(processes, is_idle=False)
        self.answer = json.loads(answer.result())
        await asyncio.sleep(PAUSE_S)
        await self._look(processes, is_idle=True)
        minutes, ended = (time.monotonic() - self._began) / 60, sum(self.answer["ended"].values())
        print(
            f"{minutes:.1f} min: {ended} calls, {self.answer['failures'] or 'none failed'}", file=sys.stderr, flush=True
        )

    async def _look(self, processes: Mapping[str, psutil.Process], *, is_idle: bool) -> None:
        tasks = {"gateway": "gateway", "replica": f"model-{MODEL}"}
        told = await asyncio.to_thread(tasks_by_deployment, self._metrics_port)
        for name, one in processes.items():
            known = {"tasks": told.get(tasks.get(name, "")), "spans": self._counter.open_spans.get(one.pid)}
            if name == "client":
                known = {key: self.answer[key] if is_idle else None for key in known}
            sample = look(time.monotonic() - self._began, name, one, is_idle=is_idle, **known)
            self._rows.writerow(dataclasses.asdict(sample))
        self._file.flush()

    def _processes(self, client: int) -> dict[str, psutil.Process]:
        (gateway,), (replica,) = self._fleet.gateways, self._fleet.replicas
        processes = {"gateway": gateway, "replica": replica, "client": psutil.Process(client)}
        for name, title in RAYS.items():
            (processes[name],) = process.find(title)
        return processes


if __name__ == "__main__":
    sys.exit(main())
