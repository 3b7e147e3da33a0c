"""Records the failovers of one model's generations: a span for each attempt, and a count."""

from __future__ import annotations

import time
from collections.abc import Generator, Sized
from contextlib import contextmanager
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from qwire.telemetry import names
from qwire.telemetry.generation import Envelope
from qwire.telemetry.propagation import extract
from qwire.telemetry.setup import Telemetry


class Route(Protocol):
    """Where a request went."""

    replica: str


class FailoverRecorder:
    """Tells of generations that lost or left a replica; of others there is nothing that their replica does not tell.

    Args:
        telemetry: Where to.
        model: The served id.
    """

    def __init__(self, telemetry: Telemetry, model: str) -> None:
        self._telemetry = telemetry
        self._model = model

    @contextmanager
    def attempt(
        self, envelope: Envelope, number: int, output: Sized, lost: type[Exception], route: Route
    ) -> Generator[None]:
        """Record the attempt of the block: a span `attempt` if it is not the first one, or if it loses its replica.

        Args:
            envelope: Who asks.
            number: 1, 2, 3 and so on.
            output: The output so far; grows meanwhile.
            lost: What a lost replica raises.
            route: Names the replica, once it is known; empty = none took it.
        """
        began_ns, had = time.time_ns(), len(output)
        try:
            yield
        except BaseException as error:
            if number > 1 or isinstance(error, lost):
                self._record(envelope, number, began_ns, (had, len(output)), route=route, error=error)
            raise
        if number > 1:
            self._record(envelope, number, began_ns, (had, len(output)), route=route, error=None)

    def failover(self, envelope: Envelope, outcome: str) -> None:
        """Count a lost replica; `outcome` is `names.ELSEWHERE` or `names.GIVEN_UP`."""
        context = extract(envelope.traceparent, envelope.tracestate)
        self._telemetry.metrics.record_failover(self._model, outcome, context)

    def _record(
        self,
        envelope: Envelope,
        number: int,
        began_ns: int,
        output_tokens: tuple[int, int],
        *,
        route: Route,
        error: BaseException | None,
    ) -> None:
        context = extract(envelope.traceparent, envelope.tracestate)
        if not trace.get_current_span(context).get_span_context().is_valid:
            return
        before, after = output_tokens
        attributes: dict[str, str | int] = {
            names.GEN_AI_REQUEST_MODEL: self._model,
            names.GEN_AI_RESPONSE_ID: envelope.request_id,
            names.ATTEMPT_NUMBER: number,
            names.ATTEMPT_RESUMED_AT_TOKENS: before,
            names.GEN_AI_USAGE_OUTPUT_TOKENS: after - before,
        }
        if route.replica:
            attributes[names.REPLICA_ID] = route.replica
        if error is not None:
            attributes[names.ERROR_TYPE] = type(error).__qualname__
        span = self._telemetry.tracer.start_span(
            names.SPAN_ATTEMPT, context, SpanKind.INTERNAL, attributes, start_time=began_ns
        )
        if isinstance(error, Exception):  # a cancelled task and a closed iterator are the caller's wish
            span.set_status(Status(StatusCode.ERROR))
        span.end()
