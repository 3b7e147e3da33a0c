"""Turns telemetry on for a process."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Literal, Self
from urllib.parse import urlsplit

from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracer, Tracer

from qwire.telemetry import names
from qwire.telemetry.logging import configure_logging, get_logger
from qwire.telemetry.metrics import Metrics, meter_provider
from qwire.telemetry.tracing import tracer_provider

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What a process tells about itself, and where.

    Attributes:
        service_name: Names the service in traces and metrics.
        otlp_endpoint: Where spans and metrics go, OTLP over gRPC: `http://host:port` in plain text or
            `https://host:port` with TLS. None = nowhere. Headers, certificates and compression are set by the
            standard `OTEL_EXPORTER_OTLP_*` variables.
        log_level: The least severe of our own log lines to write. Lines of libraries are written from WARNING on.
        log_format: `json` = one JSON object per line; `console` = for people.
        sample_ratio: Share of the traces that begin here to record, 0 to 1. A trace that a caller began follows the
            caller's decision.
        metric_interval_s: Seconds between two exports of the metrics, > 0.
        resource_attributes: Further OpenTelemetry resource attributes, such as `deployment.environment.name`.

    Raises:
        ValueError: A value is out of range.
    """

    service_name: str = "qwire"
    otlp_endpoint: str | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    sample_ratio: float = 1.0
    metric_interval_s: float = 15.0
    resource_attributes: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if not self.service_name:
            raise ValueError("service_name must not be empty")
        if self.otlp_endpoint is not None:
            url = urlsplit(self.otlp_endpoint)
            if url.scheme not in {"http", "https"} or not url.hostname:
                raise ValueError(f"otlp_endpoint must be http://host:port or https://host:port, got {url.geturl()!r}")
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError(f"log_level must be DEBUG, INFO, WARNING or ERROR, got {self.log_level!r}")
        if self.log_format not in {"json", "console"}:
            raise ValueError(f"log_format must be json or console, got {self.log_format!r}")
        if not 0 <= self.sample_ratio <= 1:
            raise ValueError(f"sample_ratio must be from 0 to 1, got {self.sample_ratio}")
        if not 0 < self.metric_interval_s < threading.TIMEOUT_MAX:
            raise ValueError(f"metric_interval_s must be above 0 and finite, got {self.metric_interval_s}")
        if SERVICE_NAME in self.resource_attributes:
            raise ValueError(f"resource_attributes must not hold {SERVICE_NAME}: set service_name")


class Telemetry:
    """Tracing and metrics of one process. Made by `configure`, or by `disabled` where nothing is to be told.

    Holds its providers itself; the process-wide OpenTelemetry providers are left alone.

    Args:
        tracer: Makes spans.
        metrics: The instruments.
        providers: What to flush and shut down.
    """

    def __init__(
        self, tracer: Tracer, metrics: Metrics, providers: tuple[TracerProvider | MeterProvider, ...] = ()
    ) -> None:
        self.tracer = tracer
        self.metrics = metrics
        self._providers = providers

    @classmethod
    def disabled(cls) -> Self:
        """Return telemetry that records nothing; a caller's trace context is still passed on."""
        return cls(NoOpTracer(), Metrics(NoOpMeter(names.SCOPE)))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Export everything recorded so far. Blocks.

        Returns:
            Whether that was done within `timeout_s` seconds.
        """
        return _all_within([provider.force_flush for provider in self._providers], timeout_s)

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Export what is left and stop. Blocks, but never longer than `timeout_s` seconds. Idempotent.

        What an absent collector did not take by then is lost, and a warning says so.
        """
        providers, self._providers = self._providers, ()
        if not _all_within([provider.shutdown for provider in providers], timeout_s):
            log.warning("telemetry_not_exported", waited_s=timeout_s)


def configure(config: TelemetryConfig) -> Telemetry:
    """Set up logging for the process and return its tracing and metrics.

    Never waits for the collector: it may come later, go away or never exist.
    """
    configure_logging(config.log_level, config.log_format)
    resource = Resource.create(
        {
            SERVICE_VERSION: version("qwire"),
            SERVICE_INSTANCE_ID: str(uuid.uuid4()),
            **config.resource_attributes,
            SERVICE_NAME: config.service_name,
        }
    )
    if config.otlp_endpoint is None:
        spans = tracer_provider(resource, None, config.sample_ratio)
        return Telemetry(spans.get_tracer(names.SCOPE), Metrics(NoOpMeter(names.SCOPE)), (spans,))
    measures = meter_provider(resource, config.otlp_endpoint, config.metric_interval_s)
    spans = tracer_provider(resource, config.otlp_endpoint, config.sample_ratio, measures)
    return Telemetry(spans.get_tracer(names.SCOPE), Metrics(measures.get_meter(names.SCOPE)), (spans, measures))


def _all_within(actions: list[Callable[[], object]], timeout_s: float) -> bool:
    # The SDK bounds neither by the time that it is given: an absent collector would hold a caller for up to 30 s.
    threads = [threading.Thread(target=action, name="qwire-telemetry", daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
