"""The whole server: one trace from the client to the last token, and nothing of what was said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2 as standard_health_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import override

from qwire.client.tracing import aio_client_interceptors
from qwire.engine.chunk import TokenChunk
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import ModelCard
from qwire.engine.request import TokenRequest
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.server import GatewayServer
from qwire.serve.recorder import GenerationRecorder
from qwire.telemetry.setup import Telemetry, TelemetryConfig, configure
from qwire.text.processor import TextProcessor
from qwire.v1 import batch_pb2, types_pb2
from qwire.v1 import generate_pb2 as pb
from tests.contract.edge import CONFIG, Stubs, card_of, served
from tests.contract.traced import CANARY, GENERATE, STREAM, Watch, watched
from tests.support.absent_collector import absent_collector
from tests.support.log_lines import collected_log_lines
from tests.support.otlp_receiver import attributes

PROMPT = f"say {CANARY}"


class RecordedEngine(FakeEngine):
    """Records its generations as a model replica does."""

    def __init__(self, telemetry: Telemetry, card: ModelCard, **options: Any) -> None:
        super().__init__(card=card, **options)
        self._recorder = GenerationRecorder(telemetry, card.model_id, "replica-1")

    @override
    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        with self._recorder.generation(request) as record:
            async with aclosing(super().generate(request)) as chunks:
                async for chunk in chunks:
                    record.add(chunk)
                    yield chunk


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    with watched(monkeypatch) as watch:
        yield watch


@asynccontextmanager
async def open_gateway(telemetry: Telemetry, processor: TextProcessor, **options: Any) -> AsyncGenerator[Stubs]:
    """Run a gateway with one recorded model, with a traced client to it."""
    engine = RecordedEngine(telemetry, card_of(processor), **options)
    config = replace(CONFIG, health=replace(CONFIG.health, probe_interval_s=3600.0))
    server = GatewayServer(ModelRegistry((), [await served(processor, engine)]), config, telemetry)
    target = f"127.0.0.1:{await server.start()}"
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors(target)) as channel:
        yield Stubs(channel)
    await server.drain(0)


@pytest.fixture
async def stubs(watch: Watch, processor: TextProcessor) -> AsyncGenerator[Stubs]:
    async with open_gateway(watch.telemetry, processor, step_s=0.002) as stubs:
        yield stubs


def spec(max_output_tokens: int = 8, **fields: Any) -> types_pb2.GenerationSpec:
    return types_pb2.GenerationSpec(
        text=PROMPT, stop=types_pb2.StopOptions(max_output_tokens=max_output_tokens), **fields
    )


def of(spans: list[Span], method: str) -> list[Span]:
    return [span for span in spans if span.name == method]


async def test_spans_and_log_lines_tell_the_tenant_and_metrics_do_not(watch: Watch, stubs: Stubs):
    call = stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec()), metadata=(("x-qwire-tenant", "a"),))
    assert [item async for item in call]
    told = [*await watch.spans(1), *await watch.spans(3, Span.SPAN_KIND_INTERNAL)]
    assert [attributes(span.attributes).get("qwire.tenant") for span in told] == ["a"] * 4
    assert [line["tenant"] for line in await watch.finished(1)] == ["a"]
    assert watch.receiver.metrics
    assert "qwire.tenant" not in str(watch.receiver.metrics)


async def test_one_trace_from_the_client_to_the_last_token(watch: Watch, stubs: Stubs):
    responses = [item async for item in stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec()))]
    generation_id = responses[0].started.generation_id
    (client,), (server,) = await watch.spans(1, Span.SPAN_KIND_CLIENT), await watch.spans(1)
    inside = {span.name: span for span in await watch.spans(3, Span.SPAN_KIND_INTERNAL)}
    assert inside.keys() == {"queue", "prefill", "decode"}
    assert {span.trace_id for span in (client, server, *inside.values())} == {client.trace_id}
    assert server.parent_span_id == client.span_id
    assert {span.parent_span_id for span in inside.values()} == {server.span_id}
    queue, prefill, decode = inside["queue"], inside["prefill"], inside["decode"]
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    told = attributes(server.attributes)
    assert told.pop("qwire.request.id")
    assert told == {
        "rpc.system.name": "grpc",
        "rpc.method": STREAM,
        "rpc.status_code": "OK",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "qwire",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.id": generation_id,
        "gen_ai.usage.input_tokens": len(PROMPT),
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.response.finish_reasons": ["length"],
    }
    for span in inside.values():
        assert attributes(span.attributes)["gen_ai.response.id"] == generation_id
        assert attributes(span.attributes)["qwire.replica.id"] == "replica-1"


async def test_measurements_lead_to_the_trace(watch: Watch, stubs: Stubs):
    await stubs.generate.Generate(pb.GenerateRequest(spec=spec()))
    (server,) = await watch.spans(1)
    for name in (
        "rpc.server.call.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.server.request.duration",
        "qwire.server.queue.wait",
        "gen_ai.client.token.usage",
    ):
        assert {exemplar.trace_id for exemplar in watch.receiver.exemplars(name)} == {server.trace_id}
        assert {exemplar.span_id for exemplar in watch.receiver.exemplars(name)} == {server.span_id}


async def test_the_calls_line_carries_every_id(watch: Watch, stubs: Stubs):
    request = pb.GenerateRequest(spec=spec())
    response = await stubs.generate.Generate(request, metadata=(("x-request-id", "mine"),))
    (server,), (line,) = await watch.spans(1), await watch.finished(1)
    assert (
        line.items()
        >= {
            "method": GENERATE,
            "code": "OK",
            "request_id": "mine",
            "trace_id": server.trace_id.hex(),
            "span_id": server.span_id.hex(),
            "model": "tiny",
            "generation_id": response.generation.started.generation_id,
        }.items()
    )


async def test_answers_and_refusals_carry_the_request_id(stubs: Stubs):
    metadata = (("x-request-id", "mine"),)
    call = stubs.generate.Generate(pb.GenerateRequest(spec=spec()), metadata=metadata)
    await call
    assert (await call.trailing_metadata())["x-request-id"] == "mine"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.generate.Generate(pb.GenerateRequest(), metadata=metadata)
    assert refused.value.trailing_metadata()["x-request-id"] == "mine"


async def test_a_cancelled_generation_is_told_as_far_as_it_came(watch: Watch, stubs: Stubs):
    call = stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec(200)))
    async for response in call:
        if response.HasField("delta"):
            break
    call.cancel()
    (server,) = await watch.spans(1)
    assert attributes(server.attributes)["rpc.status_code"] == "CANCELLED"
    inside = await watch.spans(3, Span.SPAN_KIND_INTERNAL)
    assert {span.trace_id for span in inside} == {server.trace_id}


async def test_a_deadline_in_the_engine_is_told(watch: Watch, processor: TextProcessor):
    async with open_gateway(watch.telemetry, processor, step_s=5.0) as stubs:
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.generate.Generate(pb.GenerateRequest(spec=spec()), timeout=0.3)
        (server,), (generation,) = await watch.spans(1), await watch.spans(1, Span.SPAN_KIND_INTERNAL)
        assert attributes(server.attributes)["rpc.status_code"] == "DEADLINE_EXCEEDED"
        assert generation.name == "generation"
        assert generation.trace_id == server.trace_id


async def test_every_item_of_a_batch_is_in_the_batchs_trace(watch: Watch, stubs: Stubs):
    items = [batch_pb2.BatchItem(id=f"item-{number}", spec=spec(4)) for number in range(3)]
    await stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=items))
    (server,) = await watch.spans(1)
    inside = await watch.spans(9, Span.SPAN_KIND_INTERNAL)
    assert {span.parent_span_id for span in inside} == {server.span_id}
    assert len({attributes(span.attributes)["gen_ai.response.id"] for span in inside}) == 3


async def test_probes_are_not_traced(watch: Watch, stubs: Stubs):
    await stubs.standard_health.Check(standard_health_pb2.HealthCheckRequest())
    await watch.spans(0)
    assert not watch.lines.of("rpc_finished")


async def test_nothing_that_is_said_leaves_by_telemetry(watch: Watch, stubs: Stubs):
    chat = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role=types_pb2.ROLE_USER, text=PROMPT)])
    good = spec(200)
    conversation = types_pb2.GenerationSpec(chat=chat, stop=types_pb2.StopOptions(stop_strings=[CANARY]))
    bad = spec(sampling=types_pb2.SamplingOptions(temperature=-1.0), adapter=CANARY)
    unknown = types_pb2.GenerationSpec(model="unknown", text=PROMPT)
    seen = ""
    for one in (good, conversation, bad, unknown):
        call = stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=one))
        with suppress(grpc.aio.AioRpcError):
            seen += "".join([response.delta.text async for response in call])
    await asyncio.gather(
        stubs.generate.CountTokens(pb.CountTokensRequest(text=PROMPT)),
        stubs.generate.CancelGeneration(pb.CancelGenerationRequest(generation_id=CANARY)),
        return_exceptions=True,
    )
    assert CANARY in seen
    await watch.spans(6)
    assert CANARY.encode() not in watch.receiver.received_bytes()
    assert CANARY not in watch.lines.stream.getvalue()


async def test_a_server_does_not_notice_that_the_collector_is_away(processor: TextProcessor):
    with absent_collector() as endpoint, collected_log_lines():
        telemetry = configure(TelemetryConfig(otlp_endpoint=endpoint, metric_interval_s=0.05))
        async with open_gateway(telemetry, processor) as stubs:
            requests = [stubs.generate.Generate(pb.GenerateRequest(spec=spec())) for _ in range(50)]
            answers = await asyncio.gather(*requests)
            assert all(answer.generation.finished.usage.output_tokens == 8 for answer in answers)
        await asyncio.to_thread(telemetry.shutdown, 0.1)


async def test_without_telemetry_the_server_answers(processor: TextProcessor):
    async with open_gateway(Telemetry.disabled(), processor) as stubs:
        answer = await stubs.generate.Generate(pb.GenerateRequest(spec=spec()))
        assert answer.generation.finished.usage.output_tokens == 8
