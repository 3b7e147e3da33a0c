"""Everything around a traced call: a collector, log lines, a server that fails in every way, and clients' spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from typing_extensions import override

from qwire.rpc.tracing import TracingInterceptor
from qwire.telemetry.logging import get_logger
from qwire.telemetry.setup import Telemetry, TelemetryConfig, configure
from qwire.v1 import generate_pb2 as pb
from qwire.v1 import types_pb2
from qwire.v1.generate_pb2_grpc import GenerateServiceServicer, add_GenerateServiceServicer_to_server
from tests.support.log_lines import LogLines, collected_log_lines
from tests.support.otlp_receiver import OtlpReceiver, eventually, otlp_receiver

GENERATE = "qwire.v1.GenerateService/Generate"
STREAM = "qwire.v1.GenerateService/StreamGenerate"
CANARY = "canary-7f3a"

log = get_logger("qwire.test")

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class Watch:
    """What is known of what was told."""

    receiver: OtlpReceiver
    telemetry: Telemetry
    lines: LogLines

    async def spans(self, count: int, kind: Span.SpanKind.ValueType = Span.SPAN_KIND_SERVER) -> list[Span]:
        """Wait for so many spans of a kind and return them; more would be seen as well."""

        def found() -> list[Span]:
            self.telemetry.flush()
            return [span for span in self.receiver.spans if span.kind == kind]

        # A server's span may end a moment after its client has the status.
        await eventually(lambda: len(found()) >= count)
        spans = found()
        assert len(spans) == count, [(span.name, span.attributes) for span in spans]
        return spans

    async def finished(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many `rpc_finished` lines and return them."""
        await eventually(lambda: len(self.lines.of("rpc_finished")) >= count)
        assert len(self.lines.of("rpc_finished")) == count
        return self.lines.of("rpc_finished")


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    """Collect what server and clients in this process tell."""
    with otlp_receiver() as receiver, collected_log_lines() as lines:
        telemetry = configure(TelemetryConfig(otlp_endpoint=receiver.endpoint, metric_interval_s=3600))
        lines.attach()
        clients = TracerProvider(shutdown_on_exit=False)
        clients.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(receiver.endpoint, insecure=True)))
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: clients)
        yield Watch(receiver, telemetry, lines)
        clients.shutdown()
        telemetry.shutdown()


@dataclass(slots=True)
class FickleService(GenerateServiceServicer):
    """Does what the spec's model names: answer, abort, raise, wait, flood."""

    closed: list[str] = field(default_factory=list[str])
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    @override
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        self.entered.set()
        log.info("handling")
        await self.behave(request.spec.model, context)
        return pb.GenerateResponse(generation=types_pb2.Generation(text=request.spec.text))

    @override
    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        self.entered.set()
        log.info("handling")
        try:
            yield pb.StreamGenerateResponse(sequence=1)
            if request.spec.model == "flood":
                big = pb.StreamGenerateResponse(delta=pb.GenerationDelta(text="x" * 100_000))
                while True:
                    yield big
            await self.behave(request.spec.model, context)
            yield pb.StreamGenerateResponse(sequence=2)
        finally:
            self.closed.append(request.spec.model)
            log.info("closed")

    @override
    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        return pb.CountTokensResponse()

    @override
    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        raise NotImplementedError

    async def behave(self, model: str, context: Context) -> None:
        """What the model stands for."""
        if model == "wait":
            await asyncio.Event().wait()
        if model == "raise":
            raise ValueError(CANARY)
        if model.isupper():
            await context.abort(grpc.StatusCode[model], CANARY)


@asynccontextmanager
async def fickle_server(telemetry: Telemetry, service: FickleService) -> AsyncGenerator[str]:
    """Serve with nothing but the tracing interceptor; yields the target."""
    server = grpc.aio.server(interceptors=(TracingInterceptor(telemetry),))
    add_GenerateServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def generate(model: str) -> pb.GenerateRequest:
    """A request that says the canary."""
    return pb.GenerateRequest(spec=types_pb2.GenerationSpec(model=model, text=CANARY))


def stream(model: str) -> pb.StreamGenerateRequest:
    """The same as a stream."""
    return pb.StreamGenerateRequest(spec=types_pb2.GenerationSpec(model=model, text=CANARY))
