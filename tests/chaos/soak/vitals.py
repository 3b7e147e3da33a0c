"""What each process holds: memory, descriptors and threads from the kernel; tasks and spans from their own metrics."""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from typing_extensions import override

from tests.support.otlp_receiver import OtlpCollector, attributes

_TASKS = re.compile(r'^ray_serve_event_loop_tasks\{.*deployment="([^"]+)".*\} ([0-9.e+]+)$', re.MULTILINE)
_LIVE_SPANS = "otel.sdk.span.live"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process.

    Attributes:
        at_s: When, seconds from the beginning of the run.
        process: Which one.
        is_idle: Whether no call was open.
        anonymous_bytes: Memory that is no file's: heaps and stacks. Pages of libraries come and go as others use them.
        resident_bytes: Memory in all.
        descriptors: Open file descriptors.
        threads: Threads of the kernel.
        tasks: asyncio tasks, of all its loops; None = not known.
        spans: Spans that have begun and not ended; None = not known.
    """

    at_s: float
    process: str
    is_idle: bool
    anonymous_bytes: int
    resident_bytes: int
    descriptors: int
    threads: int
    tasks: int | None
    spans: int | None

    @classmethod
    def of(cls, row: Mapping[str, str]) -> Self:
        """Read it from a row of a CSV file."""
        numbers = {field: int(row[field]) if row[field] else None for field in _NUMBERS}
        return cls(float(row["at_s"]), row["process"], row["is_idle"] == "True", **numbers)  # pyright: ignore[reportArgumentType] - those that must be there are


_NUMBERS = ("anonymous_bytes", "resident_bytes", "descriptors", "threads", "tasks", "spans")


def look(
    at_s: float, name: str, process: psutil.Process, *, is_idle: bool, tasks: int | None, spans: int | None
) -> Sample:
    """Look at a process.

    Raises:
        psutil.Error, OSError: It is gone.
    """
    rollup = dict(
        re.findall(r"^(\w+): +(\d+) kB$", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
    )
    return Sample(
        at_s=round(at_s, 1),
        process=name,
        is_idle=is_idle,
        anonymous_bytes=int(rollup["Anonymous"]) * 1024,
        resident_bytes=int(rollup["Rss"]) * 1024,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        tasks=tasks,
        spans=spans,
    )


def tasks_by_deployment(metrics_port: int) -> Mapping[str, int]:
    """Return the asyncio tasks of each deployment's loops, as Ray's agent on this node has them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as response:
        text = response.read().decode()
    tasks: dict[str, int] = defaultdict(int)
    for deployment, number in _TASKS.findall(text):
        tasks[deployment] += int(float(number))
    return tasks


class SpanCounter(OtlpCollector):
    """Keeps nothing but how many spans are open in each process.

    Attributes:
        open_spans: By process id.
    """

    def __init__(self) -> None:
        self.open_spans: dict[int, int] = {}

    @override
    def take(self, request: Any) -> None:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return
        for resource in request.resource_metrics:
            pid = attributes(resource.resource.attributes).get("process.pid")
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                if isinstance(pid, int) and metric.name == _LIVE_SPANS:
                    self.open_spans[pid] = sum(point.as_int for point in metric.sum.data_points)
