"""An OTLP collector in this process: keeps what it is sent, for tests to look at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, HistogramDataPoint, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import override


class OtlpCollector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes spans and metrics over gRPC; `endpoint` says where, once it is `listening`."""

    endpoint = ""

    def Export(self, request: Message, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802 - of both services
        self.take(request)
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return trace_service_pb2.ExportTraceServiceResponse()
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def take(self, request: Message) -> None:
        """Do something with what came."""
        raise NotImplementedError


_CollectorT = TypeVar("_CollectorT", bound=OtlpCollector)


@contextmanager
def listening(collector: _CollectorT, address: str = "127.0.0.1:0") -> Generator[_CollectorT]:
    """Run a collector on a free port, or on a given one."""
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


class OtlpReceiver(OtlpCollector):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[Message] = []

    @override
    def take(self, request: Message) -> None:
        self.requests.append(request)

    @property
    def spans(self) -> list[Span]:
        """Every span, in order of arrival."""
        return [
            span
            for request in list(self.requests)
            if isinstance(request, trace_service_pb2.ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def span(self, name: str, kind: Span.SpanKind.ValueType = Span.SPAN_KIND_UNSPECIFIED) -> Span:
        """The one span of this name, and of this kind unless it is unspecified."""
        found = [span for span in self.spans if span.name == name and kind in {Span.SPAN_KIND_UNSPECIFIED, span.kind}]
        assert len(found) == 1, (name, [span.name for span in self.spans])
        return found[0]

    @property
    def metrics(self) -> list[Metric]:
        """Every metric, in order of arrival; each export tells the totals so far."""
        return [
            metric
            for request in list(self.requests)
            if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def points(self, name: str) -> list[HistogramDataPoint]:
        """The latest points of a histogram."""
        return list([metric for metric in self.metrics if metric.name == name][-1].histogram.data_points)

    def counts(self, name: str) -> list[NumberDataPoint]:
        """The latest points of a counter."""
        return list([metric for metric in self.metrics if metric.name == name][-1].sum.data_points)

    def exemplars(self, name: str) -> list[Exemplar]:
        """Every exemplar of a histogram; an export tells those since the last one."""
        histograms = (metric.histogram for metric in self.metrics if metric.name == name)
        return [exemplar for each in histograms for point in each.data_points for exemplar in point.exemplars]

    def received_bytes(self) -> bytes:
        """Everything that was received, serialized."""
        return b"".join(request.SerializeToString() for request in list(self.requests))


@contextmanager
def otlp_receiver(address: str = "127.0.0.1:0") -> Generator[OtlpReceiver]:
    """Run a receiver on a free port, or on a given one."""
    with listening(OtlpReceiver(), address) as receiver:
        yield receiver


async def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until the condition holds; assertions that fail in it count as not yet, but for the last time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except AssertionError:
            pass
        await asyncio.sleep(0.01)
    assert condition()


def attributes(pairs: Any) -> dict[str, object]:
    """Attributes of a span, a point or a resource as a dictionary."""
    return {pair.key: _value(pair.value) for pair in _typed(pairs)}


def _typed(pairs: Any) -> list[KeyValue]:
    return list(pairs)


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
