import pickle
import socket
import time
from typing import Any

import pytest
from opentelemetry import metrics, trace

from qwire.telemetry.setup import Telemetry, TelemetryConfig, configure
from tests.support.absent_collector import absent_collector
from tests.support.log_lines import collected_log_lines
from tests.support.otlp_receiver import attributes, otlp_receiver


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("service_name", ""),
        ("otlp_endpoint", ""),
        ("otlp_endpoint", "collector:4317"),
        ("otlp_endpoint", "ftp://collector:4317"),
        ("otlp_endpoint", "http://"),
        ("log_level", "LOUD"),
        ("log_format", "xml"),
        ("sample_ratio", -0.1),
        ("sample_ratio", 1.1),
        ("sample_ratio", float("nan")),
        ("metric_interval_s", 0.0),
        ("metric_interval_s", float("inf")),
        ("metric_interval_s", float("nan")),
        ("resource_attributes", {"service.name": "other"}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any):
    with pytest.raises(ValueError, match=field):
        TelemetryConfig(**{field: value})


def test_the_configuration_travels_between_processes():
    config = TelemetryConfig(otlp_endpoint="https://collector:4317", resource_attributes={"a": "b"})
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes


def test_spans_and_metrics_say_who_sends_them():
    place = {"deployment.environment.name": "test"}
    with otlp_receiver() as receiver, collected_log_lines():
        config = TelemetryConfig(service_name="edge", otlp_endpoint=receiver.endpoint, resource_attributes=place)
        telemetry = configure(config)
        telemetry.tracer.start_span("s").end()
        telemetry.shutdown()
    request: Any = receiver.requests[0]
    told = attributes(request.resource_spans[0].resource.attributes)
    assert told["service.name"] == "edge"
    assert told["deployment.environment.name"] == "test"
    assert {"service.version", "service.instance.id"} <= told.keys()


def test_the_process_wide_providers_are_left_alone():
    before = trace.get_tracer_provider(), metrics.get_meter_provider()
    with otlp_receiver() as receiver, collected_log_lines():
        configure(TelemetryConfig(otlp_endpoint=receiver.endpoint)).shutdown()
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before


def test_without_an_endpoint_lines_have_ids_and_nothing_is_recorded():
    with collected_log_lines():
        telemetry = configure(TelemetryConfig())
    span = telemetry.tracer.start_span("s")
    assert span.get_span_context().is_valid
    assert not span.is_recording()
    telemetry.shutdown()


@pytest.mark.parametrize(("ratio", "recorded"), [(0.0, False), (1.0, True)])
def test_the_ratio_decides_for_traces_that_begin_here(ratio: float, recorded: bool):  # noqa: FBT001
    with otlp_receiver() as receiver, collected_log_lines():
        telemetry = configure(TelemetryConfig(otlp_endpoint=receiver.endpoint, sample_ratio=ratio))
        assert telemetry.tracer.start_span("s").is_recording() is recorded
        telemetry.shutdown()


def test_disabled_telemetry_does_nothing_and_keeps_the_callers_trace():
    telemetry = Telemetry.disabled()
    parent = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1)))
    span = telemetry.tracer.start_span("s", trace.set_span_in_context(parent))
    assert span.get_span_context() == parent.get_span_context()
    assert telemetry.flush()
    telemetry.shutdown()
    telemetry.shutdown()


def test_an_absent_collector_delays_a_shutdown_no_longer_than_allowed():
    with absent_collector() as endpoint, collected_log_lines() as lines:
        telemetry = configure(TelemetryConfig(otlp_endpoint=endpoint))
        lines.attach()
        for _ in range(5000):  # more than the queue holds: the rest is dropped, nobody waits
            telemetry.tracer.start_span("s").end()
        began = time.monotonic()
        telemetry.shutdown(timeout_s=0.5)
        assert time.monotonic() - began < 8  # unbounded, the SDK needs more than 10 s
        assert lines.of("telemetry_not_exported")


def test_a_collector_may_come_later():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    with collected_log_lines():
        telemetry = configure(TelemetryConfig(otlp_endpoint=f"http://{address}"))
        telemetry.tracer.start_span("early").end()
        telemetry.flush(timeout_s=0.1)
        with otlp_receiver(address) as receiver:
            telemetry.tracer.start_span("late").end()
            assert telemetry.flush(timeout_s=20)
            assert {span.name for span in receiver.spans} == {"early", "late"}
            telemetry.shutdown()


def test_open_spans_are_told_where_the_sdk_is_asked_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    with otlp_receiver() as receiver, collected_log_lines():
        telemetry = configure(TelemetryConfig(otlp_endpoint=receiver.endpoint))
        spans = [telemetry.tracer.start_span(name) for name in "ab"]
        told: list[int] = []
        for span in spans:
            span.end()
            assert telemetry.flush()
            told.append(sum(point.as_int for point in receiver.counts("otel.sdk.span.live")))
        telemetry.shutdown()
    assert told == [1, 0]
