from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from qwire.telemetry.propagation import TraceFields, extract, inject

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_span_survives_the_way_through_text():
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    fields = inject(trace.set_span_in_context(span))
    arrived = trace.get_current_span(extract(*fields)).get_span_context()
    assert arrived.trace_id == span.get_span_context().trace_id
    assert arrived.span_id == span.get_span_context().span_id
    assert arrived.trace_flags.sampled


def test_tracestate_goes_along():
    assert inject(extract(PARENT, "vendor=1,other=2")) == TraceFields(PARENT, "vendor=1,other=2")


def test_without_a_span_there_is_nothing_to_tell():
    assert inject(extract(None)) == TraceFields(None, None)


def test_extraction_does_not_mix_in_the_current_context():
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    with trace.use_span(span):
        assert not trace.get_current_span(extract(None)).get_span_context().is_valid
        assert not trace.get_current_span(extract("garbage")).get_span_context().is_valid


@given(st.text(), st.none() | st.text())
def test_garbage_counts_as_none(traceparent: str, tracestate: str | None):
    assert not trace.get_current_span(extract(traceparent, tracestate)).get_span_context().is_valid


@given(st.text())
def test_a_broken_tracestate_does_not_lose_the_trace(tracestate: str):
    assert trace.get_current_span(extract(PARENT, tracestate)).get_span_context().is_valid
