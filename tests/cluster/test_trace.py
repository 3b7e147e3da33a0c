"""One trace from the client through the gateway to the replica, across three processes."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from qwire.client import AsyncClient
from tests.cluster.conftest import Cluster
from tests.support.otlp_receiver import OtlpReceiver, attributes, eventually

CANARY = "chrysanthemum-7734"


async def test_one_trace_across_processes(cluster: Cluster, client: AsyncClient, collector: OtlpReceiver) -> None:
    del cluster
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as caller:
        answer = await client.generate(CANARY, model="tiny-a", max_output_tokens=5, ignore_eos=True)
    trace_id = caller.get_span_context().trace_id.to_bytes(16, "big")

    def spans() -> dict[str, Span]:
        return {span.name: span for span in collector.spans if span.trace_id == trace_id}

    await eventually(lambda: {"queue", "prefill", "decode"} <= set(spans()))
    await eventually(lambda: any(name.endswith("GenerateService/Generate") for name in spans()))
    found = spans()
    server = next(span for name, span in found.items() if name.endswith("GenerateService/Generate"))
    for name in ("queue", "prefill", "decode"):
        assert found[name].parent_span_id == server.span_id
        assert attributes(found[name].attributes)["gen_ai.response.id"] == answer.started.generation_id
    assert trace.get_current_span().get_span_context().trace_id == 0
    assert CANARY.encode() not in collector.received_bytes()
    await eventually(lambda: collector.points("gen_ai.server.time_to_first_token"), 30)
    await eventually(lambda: collector.points("gen_ai.server.time_per_output_token"), 30)
