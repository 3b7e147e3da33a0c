"""How soon decoding stops on Ray after a cancel or a deadline, and what is left behind.

Streams over real gRPC end at random points, half by their caller's cancel and half by their deadline. How soon is read
off the steps that the engine computes for them afterwards.

    python -m tests.bench.cancel
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from typing_extensions import override

from qwire.client import AsyncClient
from qwire.telemetry import names
from qwire.telemetry.setup import TelemetryConfig
from qwire.v1 import generate_pb2 as pb
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.bench.busy_cluster import MODEL, BusyCluster, busy_cluster
from tests.chaos.soak.vitals import tasks_by_deployment
from tests.cluster.conftest import ready
from tests.support.otlp_receiver import OtlpCollector, listening

AT_ONCE, MOST_STEPS, MOST_MS = 24, 2, 250.0
GAUGES = {"otel.sdk.span.live": "spans", names.METRIC_BUFFERED: "buffered bytes"}
_TOLD_S, _IDLE_S = 1.0, 20.0
_ENVIRONMENT = {
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
    "RAY_SERVE_EVENT_LOOP_MONITORING_INTERVAL_S": f"{_TOLD_S:g}",
}


class Gauges(OtlpCollector):
    """Keeps what each process said last of its open spans and of what it holds for its callers."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, bytes], int] = {}
        self.ended_spans = 0

    def sums(self) -> Mapping[str, int]:
        """Return each gauge over all processes."""
        sums = dict.fromkeys(GAUGES.values(), 0)
        for (gauge, _), value in self._last.items():
            sums[gauge] += value
        return sums

    @override
    def take(self, request: Any) -> None:
        if not isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            self.ended_spans += sum(
                len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans
            )
            return
        for resource in request.resource_metrics:
            process = resource.resource.SerializeToString()
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                if metric.name in GAUGES:
                    points = (*metric.sum.data_points, *metric.gauge.data_points)
                    self._last[GAUGES[metric.name], process] = sum(point.as_int for point in points)


class Steps:
    """When the steps ended, and the last one of each generation.

    Args:
        lines: As `slow_step` writes them.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._ended_at: list[float] = []
        self.last: dict[str, int] = {}
        for number, line in enumerate(lines):
            ended_at, *ids = line.split()
            self._ended_at.append(float(ended_at))
            self.last.update(dict.fromkeys(ids, number))

    def after(self, end: End) -> tuple[int, float]:
        """Return how many steps of a generation ended after it was ended, and how long after that the last one, ms."""
        last = self.last[end.generation_id]
        late_s = self._ended_at[last] - end.at
        return max(0, last + 1 - bisect.bisect_right(self._ended_at, end.at)), max(0.0, late_s * 1000)


@dataclass(frozen=True, slots=True)
class End:
    """A generation that was ended, and when."""

    generation_id: str
    at: float


async def one(stub: GenerateServiceStub, choose: random.Random) -> End | None:
    """Begin a stream and end it; None = it ended before it began, in the queue."""
    spec = GenerationSpec(text="x" * choose.choice((3, 40, 400)))
    spec.stop.CopyFrom(StopOptions(max_output_tokens=3000, ignore_eos=True))
    by_deadline, lasts_s = choose.random() < 0.5, 0.05 + choose.random() * 0.7
    asked = time.monotonic()
    call: Any = stub.StreamGenerate(pb.StreamGenerateRequest(spec=spec), timeout=lasts_s if by_deadline else 60)
    generation_id = ""
    try:
        async with asyncio.timeout(None if by_deadline else lasts_s):
            while (response := await call.read()) is not grpc.aio.EOF:
                generation_id = generation_id or response.started.generation_id
    except TimeoutError:
        end = End(generation_id, time.monotonic())
        call.cancel()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        end = End(generation_id, asked + lasts_s)
    else:
        raise AssertionError("it was too short")
    return end if end.generation_id else None


async def held(busy: BusyCluster, gauges: Gauges, metrics_port: int) -> dict[str, int]:
    """Return what the application holds: generations, memory, tasks, spans."""
    (stats,) = await busy.cluster.stats(MODEL)
    tasks = await asyncio.to_thread(tasks_by_deployment, metrics_port)
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "KV tokens": stats.kv_used_tokens,
        **{f"tasks of {deployment}": count for deployment, count in tasks.items()},
        **gauges.sums(),
    }


async def cancel(busy: BusyCluster, gauges: Gauges, count: int) -> tuple[list[End], dict[str, int]]:
    """End generations; return those that had begun, and what more is held afterwards than was before."""
    import ray  # noqa: PLC0415 - reads its environment when it is imported

    metrics_port: int = ray.nodes()[0]["MetricsExportPort"]
    choose = random.Random(5)  # noqa: S311 - the same workload each time
    async with AsyncClient(busy.cluster.target) as client:
        await ready(client)
    async with grpc.aio.insecure_channel(busy.cluster.target) as channel:
        stub, gate = GenerateServiceStub(channel), asyncio.Semaphore(AT_ONCE)

        async def gated() -> End | None:
            async with gate:
                return await one(stub, choose)

        await asyncio.gather(*(gated() for _ in range(AT_ONCE)))  # warm
        await asyncio.sleep(_IDLE_S)
        before: dict[str, int] = defaultdict(int, await held(busy, gauges, metrics_port))
        ends = await asyncio.gather(*(gated() for _ in range(count)))
        await asyncio.sleep(_IDLE_S)
        after = await held(busy, gauges, metrics_port)
    return [end for end in ends if end is not None], {what: number - before[what] for what, number in after.items()}


def main() -> None:
    arguments = _parse()
    os.environ.update(_ENVIRONMENT)  # noqa: TID251 - of the processes that are looked at
    engine = {"max_running": 16, "max_waiting": 64, "max_step_tokens": 64}
    with listening(Gauges()) as gauges:
        telemetry = TelemetryConfig(otlp_endpoint=gauges.endpoint, metric_interval_s=_TOLD_S, log_level="WARNING")
        ray_config = {"metrics_report_interval_ms": int(_TOLD_S * 1000)}
        with busy_cluster(arguments.step_ms / 1000, engine, telemetry=telemetry, ray_config=ray_config) as busy:
            ends, left = asyncio.run(cancel(busy, gauges, arguments.count))
            steps = Steps(busy.record.read_text().splitlines())
    begun = [end for end in ends if end.generation_id in steps.last]
    late_steps, late_ms = (sorted(values) for values in zip(*map(steps.after, begun), strict=True))
    p99 = int(len(begun) * 0.99)
    print(
        f"{arguments.count} generations ended at random, {len(begun)} of them after they began; steps of "
        f"{arguments.step_ms} ms and what they compute\n"
        f"decoding went on for {late_steps[p99]} steps p99, {late_steps[-1]} at most; "
        f"{late_ms[len(begun) // 2]:.0f} ms p50, {late_ms[p99]:.0f} ms p99, {late_ms[-1]:.0f} ms at most\n"
        f"left behind, of {gauges.ended_spans} spans: " + ", ".join(f"{count} {what}" for what, count in left.items())
    )
    if any(count > 0 for count in left.values()) or (late_steps[p99] > MOST_STEPS and late_ms[p99] > MOST_MS):
        sys.exit("not as it must be")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--step-ms", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
