"""Spans and measurements of a generation, recorded where it ran, once it is over.

The engine tells its stations as clock readings, so nothing is traced while tokens are made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from qwire.telemetry import names
from qwire.telemetry.metrics import GenerationMeasures
from qwire.telemetry.propagation import extract
from qwire.telemetry.setup import Telemetry

_Attributes = dict[str, AttributeValue]


class Envelope(Protocol):
    """What is read of `qwire.engine.request.Envelope`; this room is below the engine and does not import it."""

    @property
    def request_id(self) -> str:
        """Names the generation."""
        ...

    @property
    def tenant(self) -> str:
        """Who asked; empty = nobody in particular."""
        ...

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of the span that asked."""
        ...

    @property
    def tracestate(self) -> str | None:
        """W3C trace state."""
        ...


class Timings(Protocol):
    """What is read of `qwire.engine.chunk.Timings`, nanoseconds since the epoch."""

    @property
    def arrived_unix_ns(self) -> int:
        """It entered the waiting queue."""
        ...

    @property
    def scheduled_unix_ns(self) -> int:
        """Its first prefill step began."""
        ...

    @property
    def first_token_unix_ns(self) -> int:
        """Its first output token was drawn."""
        ...

    @property
    def finished_unix_ns(self) -> int:
        """Its last output token was drawn."""
        ...


class Finish(Protocol):
    """What is read of `qwire.engine.chunk.Finish`."""

    @property
    def reason(self) -> Enum:
        """Why it ended."""
        ...

    @property
    def timings(self) -> Timings:
        """When it passed its stations."""
        ...

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens whose computation was reused."""
        ...

    @property
    def drafted_tokens(self) -> int:
        """Output tokens that were guessed and computed ahead."""
        ...

    @property
    def accepted_tokens(self) -> int:
        """Those of them that were then drawn."""
        ...

    @property
    def preemptions(self) -> int:
        """How often it went back to the queue, as others took its place or its KV cache."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationScope:
    """What ran where.

    Attributes:
        model: The id of the model.
        replica: Names the replica among all of its model.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens generated there so far; those that the request came with do not count.
    """

    model: str
    replica: str
    prompt_tokens: int
    output_tokens: int


def record_generation_spans(telemetry: Telemetry, envelope: Envelope, finish: Finish, scope: GenerationScope) -> None:
    """Record a generation that ended well: spans `queue`, `prefill` and `decode`, and its measurements.

    The spans are children of the envelope's span; an envelope without one gives measurements only.
    """
    context = extract(envelope.traceparent, envelope.tracestate)
    timings = finish.timings
    common = _attributes(envelope, scope)
    stations = (
        (names.SPAN_QUEUE, timings.arrived_unix_ns, timings.scheduled_unix_ns, {}),
        (
            names.SPAN_PREFILL,
            timings.scheduled_unix_ns,
            timings.first_token_unix_ns,
            {
                names.GEN_AI_USAGE_INPUT_TOKENS: scope.prompt_tokens,
                names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: finish.cached_prompt_tokens,
            },
        ),
        (
            names.SPAN_DECODE,
            timings.first_token_unix_ns,
            timings.finished_unix_ns,
            {
                names.GEN_AI_USAGE_OUTPUT_TOKENS: scope.output_tokens,
                names.GEN_AI_RESPONSE_FINISH_REASONS: (str(finish.reason.value),),
                **_drafts(finish),
                **({names.PREEMPTIONS: finish.preemptions} if finish.preemptions else {}),
            },
        ),
    )
    if _has_span(context):
        for name, start_ns, end_ns, own in stations:
            span = telemetry.tracer.start_span(name, context, SpanKind.INTERNAL, {**common, **own}, start_time=start_ns)
            span.end(end_ns)
    telemetry.metrics.record_generation(scope.model, _measures(finish, scope), context)


def record_generation_failure(
    telemetry: Telemetry, envelope: Envelope, scope: GenerationScope, error: BaseException, arrived_unix_ns: int
) -> None:
    """Record a generation that failed or was cancelled: one span `generation` until now, and its duration.

    Args:
        telemetry: Where to.
        envelope: Who asked.
        scope: What ran where.
        error: What ended it. Its type is told, its text never.
        arrived_unix_ns: When it arrived, nanoseconds since the epoch.
    """
    context = extract(envelope.traceparent, envelope.tracestate)
    error_type = type(error).__qualname__
    now_ns = time.time_ns()
    if _has_span(context):
        attributes = {
            **_attributes(envelope, scope),
            names.GEN_AI_USAGE_INPUT_TOKENS: scope.prompt_tokens,
            names.GEN_AI_USAGE_OUTPUT_TOKENS: scope.output_tokens,
            names.ERROR_TYPE: error_type,
        }
        span = telemetry.tracer.start_span(
            names.SPAN_GENERATION, context, SpanKind.INTERNAL, attributes, start_time=arrived_unix_ns
        )
        if isinstance(error, Exception):  # a cancelled task and a closed iterator are the caller's wish
            span.set_status(Status(StatusCode.ERROR))
        span.end(now_ns)
    telemetry.metrics.record_failure(scope.model, error_type, _seconds(arrived_unix_ns, now_ns), context)


def _attributes(envelope: Envelope, scope: GenerationScope) -> _Attributes:
    attributes: _Attributes = {
        names.GEN_AI_OPERATION_NAME: names.TEXT_COMPLETION,
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
        names.GEN_AI_REQUEST_MODEL: scope.model,
        names.GEN_AI_RESPONSE_ID: envelope.request_id,
        names.REPLICA_ID: scope.replica,
    }
    return attributes | {names.TENANT: envelope.tenant} if envelope.tenant else attributes


def _drafts(finish: Finish) -> _Attributes:
    if finish.drafted_tokens == 0:
        return {}
    return {
        names.USAGE_DRAFTED_TOKENS: finish.drafted_tokens,
        names.USAGE_ACCEPTED_TOKENS: finish.accepted_tokens,
    }


def _measures(finish: Finish, scope: GenerationScope) -> GenerationMeasures:
    timings = finish.timings
    arrived = timings.arrived_unix_ns
    return GenerationMeasures(
        queue_s=_seconds(arrived, timings.scheduled_unix_ns),
        time_to_first_token_s=_seconds(arrived, timings.first_token_unix_ns),
        duration_s=_seconds(arrived, timings.finished_unix_ns),
        prompt_tokens=scope.prompt_tokens,
        output_tokens=scope.output_tokens,
        drafted_tokens=finish.drafted_tokens,
        accepted_tokens=finish.accepted_tokens,
        preemptions=finish.preemptions,
    )


def _seconds(start_ns: int, end_ns: int) -> float:
    # Wall clocks may be set back between two readings, and a histogram of durations takes nothing below zero.
    return max(0, end_ns - start_ns) / 1e9


def _has_span(context: Context) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid
