"""The instruments of the service and how they leave the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.types import AttributeValue

from qwire.telemetry import names


@dataclass(frozen=True, slots=True)
class GenerationMeasures:
    """What one generation on one replica took.

    Attributes:
        queue_s: From arrival to the first computation, seconds.
        time_to_first_token_s: From arrival to the first output token, seconds.
        duration_s: From arrival to the last output token, seconds.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens that this replica generated, at least 1.
        drafted_tokens: Tokens that were guessed and computed ahead.
        accepted_tokens: Those of them that were then drawn.
        preemptions: How often it went back to the queue.
    """

    queue_s: float
    time_to_first_token_s: float
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0

    @property
    def time_per_output_token_s(self) -> float | None:
        """Mean time between two output tokens, seconds; None = there was only one token."""
        if self.output_tokens < 2:  # noqa: PLR2004 - a gap needs two ends
            return None
        return (self.duration_s - self.time_to_first_token_s) / (self.output_tokens - 1)


class Metrics:
    """The instruments. A measurement made with the context of a sampled span carries that span as its exemplar.

    Args:
        meter: Makes the instruments; one that does nothing turns measuring off.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.rpc_duration = _seconds(
            meter,
            names.METRIC_RPC_SERVER_CALL_DURATION,
            names.BUCKETS_RPC_S,
            "How long the server took for a call.",
        )
        self.time_to_first_token = _seconds(
            meter,
            names.METRIC_TIME_TO_FIRST_TOKEN,
            names.BUCKETS_TIME_TO_FIRST_TOKEN_S,
            "From a request's arrival at the model to its first token, of those that succeeded.",
        )
        self.time_per_output_token = _seconds(
            meter,
            names.METRIC_TIME_PER_OUTPUT_TOKEN,
            names.BUCKETS_TIME_PER_OUTPUT_TOKEN_S,
            "Mean time per output token after the first one, of requests that succeeded.",
        )
        self.request_duration = _seconds(
            meter,
            names.METRIC_REQUEST_DURATION,
            names.BUCKETS_REQUEST_S,
            "From a request's arrival at the model to its last token.",
        )
        self.queue_wait = _seconds(
            meter,
            names.METRIC_QUEUE_WAIT,
            names.BUCKETS_QUEUE_WAIT_S,
            "From a request's arrival at the model to its first computation.",
        )
        self.failovers = meter.create_counter(
            names.METRIC_FAILOVERS,
            unit="{failover}",
            description="Times that a generation lost its replica, by what became of it: elsewhere or given_up.",
        )
        self.token_usage = meter.create_histogram(
            names.METRIC_TOKEN_USAGE,
            unit="{token}",
            description="Tokens of a request, by type: input or output.",
            explicit_bucket_boundaries_advisory=list(names.BUCKETS_TOKENS),
        )
        self.preemptions = meter.create_counter(
            names.METRIC_PREEMPTIONS,
            unit="{preemption}",
            description="Times that requests that succeeded lost their place or KV cache and went back to the queue.",
        )
        self.draft_tokens = meter.create_counter(
            names.METRIC_DRAFT_TOKENS,
            unit="{token}",
            description="Output tokens guessed and computed ahead, by what came of them, of requests that succeeded.",
        )

    def observe_buffered(self, used_bytes: Callable[[], int]) -> None:
        """Report from now on, at each export, what streams hold that their callers have not taken yet, bytes."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(used_bytes())

        self._meter.create_observable_gauge(
            names.METRIC_BUFFERED,
            [observe],
            unit="By",
            description="What generations hold in a gateway that their callers have not taken yet.",
        )

    def record_call(self, method: str, code: str, duration_s: float, context: Context) -> None:
        """Count one finished call.

        Args:
            method: Full method name without the leading slash, or `_OTHER`.
            code: Name of its gRPC status code.
            duration_s: How long it took, seconds.
            context: Holds its span.
        """
        attributes: dict[str, AttributeValue] = {
            names.RPC_SYSTEM_NAME: names.GRPC,
            names.RPC_METHOD: method,
            names.RPC_STATUS_CODE: code,
        }
        if code in names.SERVER_ERROR_CODES:
            attributes[names.ERROR_TYPE] = code
        self.rpc_duration.record(duration_s, attributes, context)

    def record_generation(self, model: str, measures: GenerationMeasures, context: Context) -> None:
        """Count one generation that ended well.

        Args:
            model: The id of its model.
            measures: What it took.
            context: Holds the span that asked for it.
        """
        attributes = _of_model(model)
        self.queue_wait.record(measures.queue_s, attributes, context)
        self.time_to_first_token.record(measures.time_to_first_token_s, attributes, context)
        if measures.time_per_output_token_s is not None:
            self.time_per_output_token.record(measures.time_per_output_token_s, attributes, context)
        self.request_duration.record(measures.duration_s, attributes, context)
        for token_type, tokens in ((names.INPUT, measures.prompt_tokens), (names.OUTPUT, measures.output_tokens)):
            self.token_usage.record(tokens, {**attributes, names.GEN_AI_TOKEN_TYPE: token_type}, context)
        if measures.preemptions:
            self.preemptions.add(measures.preemptions, attributes, context)
        if measures.drafted_tokens:
            rejected = measures.drafted_tokens - measures.accepted_tokens
            for outcome, tokens in ((names.ACCEPTED, measures.accepted_tokens), (names.REJECTED, rejected)):
                self.draft_tokens.add(tokens, {**attributes, names.DRAFT_OUTCOME: outcome}, context)

    def record_failover(self, model: str, outcome: str, context: Context) -> None:
        """Count one generation that lost its replica.

        Args:
            model: The id of its model.
            outcome: `names.ELSEWHERE` or `names.GIVEN_UP`.
            context: Holds the span that asked for it.
        """
        self.failovers.add(1, {**_of_model(model), names.FAILOVER_OUTCOME: outcome}, context)

    def record_failure(self, model: str, error_type: str, duration_s: float, context: Context) -> None:
        """Count one generation that failed or was cancelled.

        Args:
            model: The id of its model.
            error_type: The kind of failure, one of few; never its text.
            duration_s: From its arrival to its end, seconds.
            context: Holds the span that asked for it.
        """
        self.request_duration.record(duration_s, {**_of_model(model), names.ERROR_TYPE: error_type}, context)


def meter_provider(resource: Resource, endpoint: str, interval_s: float) -> MeterProvider:
    """Return a provider that pushes every `interval_s` seconds, from a thread of its own, to an OTLP endpoint."""
    exporter = OTLPMetricExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval_s * 1000)
    # The owner shuts it down with a bound on the time; the exit hook would wait 30 s for an absent collector.
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _seconds(meter: Meter, name: str, buckets: tuple[float, ...], description: str) -> Histogram:
    return meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=list(buckets)
    )


def _of_model(model: str) -> dict[str, AttributeValue]:
    # Token ids in, token ids out: whether they began as a chat is the gateway's knowledge, on its span.
    return {
        names.GEN_AI_OPERATION_NAME: names.TEXT_COMPLETION,
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
        names.GEN_AI_REQUEST_MODEL: model,
    }
