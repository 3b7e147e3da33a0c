# ruff: noqa: S105 - tokens of language, not of access
"""The names of everything that is traced and measured, in one place.

Taken from the OpenTelemetry semantic conventions; those that begin with `qwire.` are our own.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "qwire"
"""Instrumentation scope of our tracer and meter."""

# RPC: open-telemetry/semantic-conventions v1.44.0 (384d661), docs/rpc/{grpc,rpc-spans,rpc-metrics}.md, release
# candidate.
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
RPC_STATUS_CODE: Final = "rpc.status_code"
ERROR_TYPE: Final = "error.type"
GRPC: Final = "grpc"
UNKNOWN_METHOD: Final = "_OTHER"
SERVER_ERROR_CODES: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Statuses that are the server's failure; the others are the caller's affair and leave a server span without status."""

# GenAI: open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md (002c8a6) and gen-ai-metrics.md
# (004902b), development.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
PROVIDER: Final = "qwire"
CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
INPUT: Final = "input"
OUTPUT: Final = "output"

# Our own.
REQUEST_ID: Final = "qwire.request.id"
TENANT: Final = "qwire.tenant"
"""Of spans and log lines only: in a metric it would make a series for each name that a caller makes up."""
REPLICA_ID: Final = "qwire.replica.id"
ATTEMPT_NUMBER: Final = "qwire.attempt.number"
ATTEMPT_RESUMED_AT_TOKENS: Final = "qwire.attempt.resumed_at_tokens"
FAILOVER_OUTCOME: Final = "qwire.failover.outcome"
ELSEWHERE: Final = "elsewhere"
GIVEN_UP: Final = "given_up"
SPAN_ATTEMPT: Final = "attempt"
SPAN_QUEUE: Final = "queue"
SPAN_PREFILL: Final = "prefill"
SPAN_DECODE: Final = "decode"
SPAN_GENERATION: Final = "generation"
USAGE_DRAFTED_TOKENS: Final = "qwire.usage.drafted_tokens"
USAGE_ACCEPTED_TOKENS: Final = "qwire.usage.accepted_tokens"
PREEMPTIONS: Final = "qwire.preemptions"
DRAFT_OUTCOME: Final = "qwire.draft.outcome"
ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"

# Metrics, histograms but for the last three. A bucket list is the convention's own unless the name is ours.
METRIC_RPC_SERVER_CALL_DURATION: Final = "rpc.server.call.duration"
METRIC_TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"
METRIC_TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"
METRIC_REQUEST_DURATION: Final = "gen_ai.server.request.duration"
METRIC_TOKEN_USAGE: Final = "gen_ai.client.token.usage"
METRIC_QUEUE_WAIT: Final = "qwire.server.queue.wait"
METRIC_FAILOVERS: Final = "qwire.gateway.failovers"
METRIC_BUFFERED: Final = "qwire.server.buffered"
METRIC_PREEMPTIONS: Final = "qwire.server.preemptions"
METRIC_DRAFT_TOKENS: Final = "qwire.server.draft.tokens"

BUCKETS_RPC_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BUCKETS_TIME_TO_FIRST_TOKEN_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
BUCKETS_TIME_PER_OUTPUT_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
BUCKETS_REQUEST_S: Final = tuple(0.01 * 2**power for power in range(14))
BUCKETS_TOKENS: Final = tuple(float(4**power) for power in range(14))
BUCKETS_QUEUE_WAIT_S: Final = (0.0, *BUCKETS_TIME_TO_FIRST_TOKEN_S, 30.0, 60.0)
