"""How spans are sampled and leave the process."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased


def tracer_provider(
    resource: Resource, endpoint: str | None, sample_ratio: float, meters: MeterProvider | None = None
) -> TracerProvider:
    """Return a provider that exports from a thread of its own, in batches, dropping spans rather than waiting.

    Args:
        resource: Who we are.
        endpoint: OTLP endpoint; None = no span is recorded, but calls still get trace and span ids for their log lines.
        sample_ratio: Share of the traces that begin here to record, 0 to 1; one that a caller began follows the caller.
        meters: Where the SDK tells how many spans are open (`otel.sdk.span.live`), where its own variable
            `OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED` is true.
    """
    # The owner shuts it down with a bound on the time; the exit hook would wait 30 s for an absent collector.
    if endpoint is None:
        return TracerProvider(ALWAYS_OFF, resource, shutdown_on_exit=False)
    provider = TracerProvider(
        ParentBased(TraceIdRatioBased(sample_ratio)), resource, shutdown_on_exit=False, meter_provider=meters
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
