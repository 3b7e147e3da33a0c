"""How soon decoding stops after a cancel or a deadline, and what is left behind.

Streams over real gRPC end at random points, half by their caller's cancel and half by their deadline. How soon is read
off the steps that the engine computes for them afterwards.

    python -m tests.bench.cancel
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from typing_extensions import override

from qwire.engine.scheduler import StepPlan
from qwire.telemetry import names
from qwire.telemetry.metrics import Metrics
from qwire.telemetry.setup import Telemetry
from qwire.v1 import generate_pb2 as pb
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.bench.busy_server import busy_server

AT_ONCE, MOST_STEPS, MOST_MS = 24, 2, 250.0


class SpanCount(SpanProcessor):
    """Counts spans that began and have not ended."""

    open = 0
    ended = 0

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.open += 1

    @override
    def on_end(self, span: ReadableSpan) -> None:
        self.open -= 1
        self.ended += 1


class Steps:
    """Which step was the last one of each generation; written from the engine's thread."""

    def __init__(self) -> None:
        self._ended_at: list[float] = []
        self.last: dict[str, tuple[int, float]] = {}

    def computed(self, plan: StepPlan) -> None:
        self._ended_at.append(time.perf_counter())
        for tokens in plan.scheduled:
            self.last[tokens.sequence.request_id] = (len(self._ended_at), self._ended_at[-1])

    def after(self, end: End) -> tuple[int, float]:
        """Return how many steps of a generation ended after it was ended, and how long after that the last one, ms."""
        count, ended_at = self.last[end.generation_id]
        late_s = ended_at - end.at
        return max(0, count - bisect.bisect_right(self._ended_at, end.at)), max(0.0, late_s * 1000)


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
    asked = time.perf_counter()
    call: Any = stub.StreamGenerate(pb.StreamGenerateRequest(spec=spec), timeout=lasts_s if by_deadline else 60)
    generation_id = ""
    try:
        async with asyncio.timeout(None if by_deadline else lasts_s):
            while (response := await call.read()) is not grpc.aio.EOF:
                generation_id = generation_id or response.started.generation_id
    except TimeoutError:
        end = End(generation_id, time.perf_counter())
        call.cancel()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        end = End(generation_id, asked + lasts_s)
    else:
        raise AssertionError("it was too short")
    return end if end.generation_id else None


async def main() -> None:
    arguments = _parse()
    choose, steps, spans = random.Random(5), Steps(), SpanCount()  # noqa: S311 - the same workload each time
    provider = TracerProvider()
    provider.add_span_processor(spans)
    telemetry = Telemetry(provider.get_tracer(names.SCOPE), Metrics(NoOpMeter(names.SCOPE)))
    engine = {"max_running": 16, "max_waiting": 64, "max_step_tokens": 64}
    async with busy_server(
        arguments.step_ms / 1000, engine, {"port": 0}, telemetry=telemetry, computed=steps.computed
    ) as (server, local, port):
        while not server.health.status().models:  # noqa: ASYNC110 - its first probe
            await asyncio.sleep(0.1)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GenerateServiceStub(channel)
            await one(stub, choose)
            await asyncio.sleep(1)
            tasks_before, gate = len(asyncio.all_tasks()), asyncio.Semaphore(AT_ONCE)

            async def gated() -> End | None:
                async with gate:
                    return await one(stub, choose)

            ends = await asyncio.gather(*(gated() for _ in range(arguments.count)))
            await asyncio.sleep(2)
            stats = await local.stats()
            leaks = {
                "running": stats.running,
                "waiting": stats.waiting,
                "KV tokens": stats.kv_used_tokens,
                "calls": server.open_streams,
                "buffered bytes": server.buffered_bytes,
                "tasks": max(0, len(asyncio.all_tasks()) - tasks_before),
                "spans": spans.open,
            }
    begun = [end for end in ends if end is not None and end.generation_id in steps.last]
    late_steps, late_ms = (sorted(values) for values in zip(*map(steps.after, begun), strict=True))
    p99 = int(len(begun) * 0.99)
    print(
        f"{arguments.count} generations ended at random, {len(begun)} of them after they began; steps of "
        f"{arguments.step_ms} ms and what they compute\n"
        f"decoding went on for {late_steps[p99]} steps p99, {late_steps[-1]} at most; "
        f"{late_ms[len(begun) // 2]:.0f} ms p50, {late_ms[p99]:.0f} ms p99, {late_ms[-1]:.0f} ms at most\n"
        f"left behind, of {spans.ended} spans: " + ", ".join(f"{count} {what}" for what, count in leaks.items())
    )
    if any(leaks.values()) or (late_steps[p99] > MOST_STEPS and late_ms[p99] > MOST_MS):
        sys.exit("not as it must be")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--step-ms", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
