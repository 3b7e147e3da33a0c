"""Autoscaling: what a load does to the number of replicas, to waiting and to cost; simulated, and for real beside it.

    python -m tests.bench.autoscaling                        # three made-up loads, simulated; seconds
    python -m tests.bench.autoscaling --trace arrivals.csv   # a recorded one: arrival_s,prompt_tokens,output_tokens
    python -m tests.bench.autoscaling --real                 # one load on real Ray, and simulated with its speeds

Draws `docs/images/autoscaling-*.svg`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure

from qwire.client import AsyncClient
from qwire.serve.arrivals import Arrival, burst, diurnal, poisson, read_arrivals, steady
from qwire.serve.config import ReplicaSettings
from qwire.serve.simulation import ReplicaSpeed, simulate
from tests.bench.local_ray import local_ray
from tests.cluster.conftest import Cluster, app_config, ready
from tests.support.tiny_checkpoint import write_tiny_checkpoint

IMAGES = Path(__file__).parents[2] / "docs" / "images"
# The default model in q8 as `tests.bench.step` found it: 17.7 ms a step alone, 26.9 ms with eight, 256 prompt tokens in
# 363.1 ms. How long a start takes there was not measured: it is an argument.
STEP_S, STEP_OF_EIGHT_S, PREFILL_TOKENS_PER_S = 0.0177, 0.0269, 705.0
DEFAULT_SETTINGS = ReplicaSettings(min_replicas=0, max_replicas=8, target_tokens=4096, downscale_delay_s=120)
REAL_SETTINGS: dict[str, Any] = {
    "min_replicas": 0,
    "max_replicas": 2,
    "target_tokens": 2000,
    "upscale_delay_s": 3.0,
    "downscale_delay_s": 8.0,
    "scale_to_zero_delay_s": 12.0,
}
REAL_SECONDS = 100


@dataclass(slots=True)
class Observed:
    """One run, real or simulated.

    Attributes:
        name: Of the run.
        times_s: Moments.
        replicas: How many took requests at each of them.
        fleet: How many there were, starting and leaving ones included.
        queue_waits: When each request came, and how long it waited before its prompt was begun.
        first_tokens: When each request came, and how long after that its first token did.
    """

    name: str
    times_s: list[float] = field(default_factory=list[float])
    replicas: list[int] = field(default_factory=list[int])
    fleet: list[int] = field(default_factory=list[int])
    queue_waits: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    first_tokens: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    @property
    def costs_s(self) -> list[float]:
        """Seconds of replicas that were paid for until each moment."""
        pairs = zip(self.times_s, self.times_s[1:], self.fleet, strict=False)
        return [0.0, *accumulate((until - since) * count for since, until, count in pairs)]

    def row(self) -> str:
        cells = [self.name, str(len(self.first_tokens)), str(max(self.replicas)), f"{self.costs_s[-1]:.0f}"]
        for kind in (self.queue_waits, self.first_tokens):
            waits = [wait for _, wait in kind]
            p95 = statistics.quantiles(waits, n=20)[18]
            cells += [f"{one:.2f}" for one in (statistics.median(waits), p95, max(waits))]
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| run | requests | most replicas | replica-seconds | queue wait p50, s | p95, s | longest, s "
    "| TTFT p50, s | p95, s | longest, s |\n" + "|---" * 10 + "|"
)


def simulated(
    name: str,
    arrivals: Sequence[Arrival],
    speed: ReplicaSpeed,
    settings: ReplicaSettings,
    seconds: float,
    *,
    full_speed_replicas: float = math.inf,
) -> Observed:
    result = simulate(
        arrivals,
        speed,
        settings.limits,
        settings.targets,
        seconds=seconds,
        full_speed_replicas=full_speed_replicas,
    )
    return Observed(name, result.times_s, result.replicas, result.fleet, result.queue_waits, result.first_tokens)


def draw(path: Path, groups: Sequence[Sequence[Observed]]) -> None:
    """Replicas, what they cost, waits in queues and times to first token, one below the other; a column per group."""
    figure = Figure(figsize=(5 * len(groups), 9), layout="constrained")
    axes = figure.subplots(4, len(groups), sharex="col", squeeze=False)
    for column, group in enumerate(groups):
        replicas, costs, waits, first_tokens = (row[column] for row in axes)
        for run in group:
            replicas.step(run.times_s, run.replicas, where="post", label=run.name)
            costs.plot(run.times_s, run.costs_s)
            for cell, kind in ((waits, run.queue_waits), (first_tokens, run.first_tokens)):
                cell.plot(*zip(*sorted(kind), strict=True), ".", alpha=0.7, rasterized=True)
        replicas.set_ylim(bottom=0)
        replicas.legend()
        waits.set_yscale("symlog", linthresh=0.1)
        first_tokens.set_yscale("log")
        first_tokens.set_xlabel("seconds")
    labels = ("replicas that take requests", "cost, replica-seconds", "queue wait, s", "time to first token, s")
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Date": None})
    print(f"drawn: {path}")


class RealRun:
    """A tiny model behind real Ray."""

    def __init__(self, cluster: Cluster, client: AsyncClient) -> None:
        self._cluster = cluster
        self._client = client

    async def ask(self, prompt_tokens: int, output_tokens: int) -> tuple[float, float, float]:
        """Return the seconds to the first token, per further one, and until the prompt was begun."""
        began = time.perf_counter()
        async with self._client.stream("x" * prompt_tokens, max_output_tokens=output_tokens, ignore_eos=True) as stream:
            async for _ in stream.text_stream:
                break
            first_s = time.perf_counter() - began
            timings = (await stream.generation()).finished.timings
        waited_s = timings.time_to_first_token_s - timings.prefill_s
        return first_s, (time.perf_counter() - began - first_s) / max(1, output_tokens - 1), waited_s

    async def replicas(self) -> int:
        from ray.serve.exceptions import DeploymentUnavailableError  # noqa: PLC0415 - Ray reads its environment then

        try:
            return len(await self._cluster.stats("model"))
        except DeploymentUnavailableError:
            return 0

    async def sleep(self) -> None:
        """Wait until no replica runs."""
        while await self.replicas():  # noqa: ASYNC110 - of another process's state there is no event
            await asyncio.sleep(0.5)

    async def speed(self) -> ReplicaSpeed:
        """Measure a replica: how long it takes to come, to read and to write."""
        engine = self._cluster.config.models[0].engine
        await self.sleep()
        woken_s, *_ = await self.ask(1, 2)
        awake_s, *_ = await self.ask(1, 2)
        prompt_tokens = 3000
        read_s, *_ = await self.ask(prompt_tokens, 2)
        _, step_s, _ = await self.ask(1, 400)
        together = await asyncio.gather(*(self.ask(1, 400) for _ in range(engine.max_running)))
        slow_s = statistics.mean(tpot for _, tpot, _ in together)
        assert engine.kv_capacity_tokens is not None
        return ReplicaSpeed(
            start_s=woken_s - awake_s,
            prefill_tokens_per_s=prompt_tokens / (read_s - awake_s),
            step_s=step_s,
            step_s_per_generation=max(0.0, (slow_s - step_s) / (engine.max_running - 1)),
            max_running=engine.max_running,
            kv_capacity_tokens=engine.kv_capacity_tokens,
        )

    async def full_speed_replicas(self, one_alone_tokens_per_s: float) -> float:
        """Measure how many replicas' worth of speed all of them have together: they share this machine."""
        settings = self._cluster.config.models[0]
        requests = settings.engine.max_running * settings.replicas.max_replicas
        while await self.replicas() < settings.replicas.max_replicas:
            await asyncio.gather(*(self.ask(1, 400) for _ in range(requests)))
        began = time.perf_counter()
        await asyncio.gather(*(self.ask(1, 400) for _ in range(requests)))
        return requests * 400 / (time.perf_counter() - began) / one_alone_tokens_per_s

    async def play(self, arrivals: Sequence[Arrival], seconds: float) -> Observed:
        run = Observed("real")
        began = time.perf_counter()

        async def watch() -> None:
            while time.perf_counter() - began < seconds:
                run.replicas.append(await self.replicas())
                run.fleet.append(await asyncio.to_thread(_processes))
                run.times_s.append(time.perf_counter() - began)
                await asyncio.sleep(0.25)

        async def one(arrival: Arrival) -> None:
            await asyncio.sleep(began + arrival.arrival_s - time.perf_counter())
            first_s, _, waited_s = await self.ask(arrival.prompt_tokens, arrival.output_tokens)
            run.first_tokens.append((arrival.arrival_s, first_s))
            run.queue_waits.append((arrival.arrival_s, waited_s))

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            for arrival in arrivals:
                group.create_task(one(arrival))
        return run


def _processes() -> int:
    """Count the processes of the model's replicas, those that start or leave included."""
    titles = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
    return sum("ServeReplica:autoscaling:model-model" in title for title in titles)


async def measure(cluster: Cluster, settings: ReplicaSettings) -> list[Observed]:
    async with AsyncClient(cluster.target) as client:
        await ready(client)
        real = RealRun(cluster, client)
        speed = await real.speed()
        print(speed)
        # A third more than one replica can write, for as long as it takes to see the other one come.
        tokens_per_s = speed.max_running / (speed.step_s + (speed.max_running - 1) * speed.step_s_per_generation)
        output_tokens = 400
        arrivals = poisson(
            burst(0.1, 1.3 * tokens_per_s / output_tokens, 5, 40), REAL_SECONDS - 40, 60, output_tokens, seed=5
        )
        arrivals = [one for one in arrivals if one.output_tokens <= 3 * output_tokens]  # they must fit the context
        shared = await real.full_speed_replicas(tokens_per_s)
        print(f"all replicas together have the speed of {shared:.2f}")
        await real.sleep()
        return [
            await real.play(arrivals, REAL_SECONDS),
            simulated("simulated", arrivals, speed, settings, REAL_SECONDS, full_speed_replicas=shared),
        ]


def run_real() -> None:
    with tempfile.TemporaryDirectory() as name:
        config = app_config({"model": write_tiny_checkpoint(Path(name))}, **REAL_SETTINGS)
        with local_ray():
            cluster = Cluster(config, app="autoscaling")
            cluster.deploy()
            runs = asyncio.run(measure(cluster, config.models[0].replicas))
    print(HEADER, *(run.row() for run in runs), sep="\n")
    draw(IMAGES / "autoscaling-real.svg", [runs])


def run_simulated(trace: Path | None, start_s: float) -> None:
    seconds = 1800.0
    speed = ReplicaSpeed(
        start_s=start_s,
        prefill_tokens_per_s=PREFILL_TOKENS_PER_S,
        step_s=STEP_S,
        step_s_per_generation=(STEP_OF_EIGHT_S - STEP_S) / 7,
        max_running=16,
        kv_capacity_tokens=100_000,
    )
    if trace is None:
        loads = {
            "steady": poisson(steady(3.0), seconds, 300, 150),
            "burst": poisson(burst(0.5, 8.0, 300, 600), seconds, 300, 150),
            "diurnal": poisson(diurnal(0.0, 8.0, seconds), seconds, 300, 150),
        }
    else:
        loads = {trace.stem: read_arrivals(trace)}
        seconds = max(one.arrival_s for one in loads[trace.stem]) + 300
    runs = [simulated(name, load, speed, DEFAULT_SETTINGS, seconds) for name, load in loads.items()]
    print(HEADER, *(run.row() for run in runs), sep="\n")
    name = "simulated" if trace is None else trace.stem
    draw(IMAGES / f"autoscaling-{name}.svg", [[run] for run in runs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="simulate this load")
    parser.add_argument("--start-s", type=float, default=15.0, help="simulated: how long a replica takes to start")
    parser.add_argument("--real", action="store_true", help="on real Ray, and simulated beside it; two minutes or more")
    arguments = parser.parse_args()
    if arguments.real:
        run_real()
    else:
        run_simulated(arguments.trace, arguments.start_s)


if __name__ == "__main__":
    main()
