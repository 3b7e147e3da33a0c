import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from qwire.engine.chunk import Finish, FinishReason, Timings
from qwire.engine.errors import NumericalError
from qwire.engine.request import Envelope
from qwire.telemetry import names
from qwire.telemetry.generation import GenerationScope, record_generation_failure, record_generation_spans
from qwire.telemetry.propagation import inject
from qwire.telemetry.setup import Telemetry
from tests.support.otlp_receiver import OtlpReceiver, attributes

MS = 1_000_000
ARRIVED = 1_700_000_000_000_000_000
TIMINGS = Timings(ARRIVED, ARRIVED + 20 * MS, ARRIVED + 50 * MS, ARRIVED + 250 * MS)
FINISH = Finish(FinishReason.LENGTH, TIMINGS, cached_prompt_tokens=3)
SCOPE = GenerationScope("m", "replica-1", prompt_tokens=12, output_tokens=5)


def envelope_of(span: trace.Span) -> Envelope:
    traceparent, tracestate = inject(trace.set_span_in_context(span))
    return Envelope("g-1", traceparent=traceparent, tracestate=tracestate)


def test_queue_prefill_and_decode_follow_each_other_under_the_callers_span(
    receiver: OtlpReceiver, telemetry: Telemetry
):
    caller = telemetry.tracer.start_span("caller")
    record_generation_spans(telemetry, envelope_of(caller), FINISH, SCOPE)
    assert telemetry.flush()
    queue, prefill, decode = (receiver.span(name, Span.SPAN_KIND_INTERNAL) for name in ("queue", "prefill", "decode"))
    for span in (queue, prefill, decode):
        assert span.parent_span_id.hex() == trace.format_span_id(caller.get_span_context().span_id)
        assert (
            attributes(span.attributes).items()
            >= {
                "gen_ai.request.model": "m",
                "gen_ai.response.id": "g-1",
                "qwire.replica.id": "replica-1",
            }.items()
        )
    assert [queue.start_time_unix_nano, queue.end_time_unix_nano] == [ARRIVED, ARRIVED + 20 * MS]
    assert [prefill.start_time_unix_nano, prefill.end_time_unix_nano] == [ARRIVED + 20 * MS, ARRIVED + 50 * MS]
    assert [decode.start_time_unix_nano, decode.end_time_unix_nano] == [ARRIVED + 50 * MS, ARRIVED + 250 * MS]
    prefilled = {"gen_ai.usage.input_tokens": 12, "gen_ai.usage.cache_read.input_tokens": 3}
    assert attributes(prefill.attributes).items() >= prefilled.items()
    decoded = attributes(decode.attributes)
    assert decoded["gen_ai.usage.output_tokens"] == 5
    assert decoded["gen_ai.response.finish_reasons"] == ["length"]


def test_drafts_are_told_on_the_decode_span_and_counted_by_what_came_of_them(
    receiver: OtlpReceiver, telemetry: Telemetry
):
    caller = telemetry.tracer.start_span("caller")
    finish = Finish(FinishReason.LENGTH, TIMINGS, drafted_tokens=8, accepted_tokens=5)
    record_generation_spans(telemetry, envelope_of(caller), finish, SCOPE)
    record_generation_spans(telemetry, Envelope("g-2"), finish, SCOPE)
    assert telemetry.flush()
    decoded = attributes(receiver.span("decode", Span.SPAN_KIND_INTERNAL).attributes)
    assert decoded["qwire.usage.drafted_tokens"] == 8
    assert decoded["qwire.usage.accepted_tokens"] == 5
    points = receiver.counts("qwire.server.draft.tokens")
    assert {attributes(point.attributes)["qwire.draft.outcome"]: point.as_int for point in points} == {
        "accepted": 10,
        "rejected": 6,
    }


def test_preemptions_are_told_on_the_decode_span_and_counted(receiver: OtlpReceiver, telemetry: Telemetry):
    caller = telemetry.tracer.start_span("caller")
    finish = Finish(FinishReason.LENGTH, TIMINGS, preemptions=2)
    record_generation_spans(telemetry, envelope_of(caller), finish, SCOPE)
    assert telemetry.flush()
    decoded = attributes(receiver.span("decode", Span.SPAN_KIND_INTERNAL).attributes)
    assert decoded["qwire.preemptions"] == 2
    (point,) = receiver.counts("qwire.server.preemptions")
    assert point.as_int == 2


def test_without_drafts_nothing_is_told_of_them(receiver: OtlpReceiver, telemetry: Telemetry):
    caller = telemetry.tracer.start_span("caller")
    record_generation_spans(telemetry, envelope_of(caller), FINISH, SCOPE)
    assert telemetry.flush()
    decoded = attributes(receiver.span("decode", Span.SPAN_KIND_INTERNAL).attributes)
    assert not any("draft" in name for name in decoded)
    assert "qwire.server.draft.tokens" not in {metric.name for metric in receiver.metrics}


def test_measurements_carry_the_callers_span_as_exemplar(receiver: OtlpReceiver, telemetry: Telemetry):
    caller = telemetry.tracer.start_span("caller")
    record_generation_spans(telemetry, envelope_of(caller), FINISH, SCOPE)
    assert telemetry.flush()
    expected = {
        "gen_ai.server.time_to_first_token": 0.05,
        "gen_ai.server.time_per_output_token": 0.05,
        "gen_ai.server.request.duration": 0.25,
        "qwire.server.queue.wait": 0.02,
    }
    for name, seconds in expected.items():
        (point,) = receiver.points(name)
        assert point.sum == pytest.approx(seconds)
        assert attributes(point.attributes) == {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "qwire",
            "gen_ai.request.model": "m",
        }
        (exemplar,) = point.exemplars
        assert exemplar.trace_id.hex() == trace.format_trace_id(caller.get_span_context().trace_id)
        assert exemplar.span_id.hex() == trace.format_span_id(caller.get_span_context().span_id)
    usage = {attributes(p.attributes)["gen_ai.token.type"]: p.sum for p in receiver.points("gen_ai.client.token.usage")}
    assert usage == {"input": 12, "output": 5}


def test_histograms_have_the_buckets_of_the_conventions(receiver: OtlpReceiver, telemetry: Telemetry):
    record_generation_spans(telemetry, Envelope("g-1"), FINISH, SCOPE)
    assert telemetry.flush()
    assert receiver.points("gen_ai.server.request.duration")[0].explicit_bounds == pytest.approx(
        [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
    )
    assert list(receiver.points("gen_ai.client.token.usage")[0].explicit_bounds) == [4**power for power in range(14)]
    for name, buckets in (
        (names.METRIC_TIME_TO_FIRST_TOKEN, names.BUCKETS_TIME_TO_FIRST_TOKEN_S),
        (names.METRIC_TIME_PER_OUTPUT_TOKEN, names.BUCKETS_TIME_PER_OUTPUT_TOKEN_S),
        (names.METRIC_QUEUE_WAIT, names.BUCKETS_QUEUE_WAIT_S),
    ):
        assert tuple(receiver.points(name)[0].explicit_bounds) == buckets


def test_one_token_has_no_time_per_output_token(receiver: OtlpReceiver, telemetry: Telemetry):
    record_generation_spans(telemetry, Envelope("g-1"), FINISH, GenerationScope("m", "r", 12, 1))
    assert telemetry.flush()
    seen = {metric.name for metric in receiver.metrics}
    assert "gen_ai.server.time_to_first_token" in seen
    assert "gen_ai.server.time_per_output_token" not in seen


def test_a_clock_that_was_set_back_loses_no_measurement(receiver: OtlpReceiver, telemetry: Telemetry):
    finish = Finish(FinishReason.LENGTH, Timings(ARRIVED, ARRIVED - MS, ARRIVED + MS, ARRIVED + MS))
    record_generation_spans(telemetry, Envelope("g-1"), finish, SCOPE)
    assert telemetry.flush()
    assert [(p.count, p.sum) for p in receiver.points("qwire.server.queue.wait")] == [(1, 0.0)]


def test_without_a_trace_there_are_measurements_only(receiver: OtlpReceiver, telemetry: Telemetry):
    record_generation_spans(telemetry, Envelope("g-1"), FINISH, SCOPE)
    record_generation_failure(telemetry, Envelope("g-2"), SCOPE, NumericalError(), ARRIVED)
    assert telemetry.flush()
    assert receiver.spans == []
    assert sum(point.count for point in receiver.points("gen_ai.server.request.duration")) == 2


def test_a_trace_that_the_caller_does_not_record_is_not_recorded_here(receiver: OtlpReceiver, telemetry: Telemetry):
    envelope = Envelope("g-1", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    record_generation_spans(telemetry, envelope, FINISH, SCOPE)
    assert telemetry.flush()
    assert receiver.spans == []
    assert not receiver.points("gen_ai.server.time_to_first_token")[0].exemplars


def test_a_failure_tells_its_kind_and_not_its_text(receiver: OtlpReceiver, telemetry: Telemetry):
    caller = telemetry.tracer.start_span("caller")
    record_generation_failure(telemetry, envelope_of(caller), SCOPE, ValueError("CANARY"), ARRIVED)
    assert telemetry.flush()
    span = receiver.span("generation")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span.attributes)["error.type"] == "ValueError"
    assert span.start_time_unix_nano == ARRIVED
    assert attributes(receiver.points("gen_ai.server.request.duration")[0].attributes)["error.type"] == "ValueError"
    assert b"CANARY" not in receiver.received_bytes()


@pytest.mark.parametrize("wish", [asyncio.CancelledError(), GeneratorExit()])
def test_a_cancelled_generation_is_no_error(receiver: OtlpReceiver, telemetry: Telemetry, wish: BaseException):
    caller = telemetry.tracer.start_span("caller")
    record_generation_failure(telemetry, envelope_of(caller), SCOPE, wish, ARRIVED)
    assert telemetry.flush()
    assert receiver.span("generation").status.code == Status.STATUS_CODE_UNSET
