"""A real server on a loopback port in front of a fake engine, with real stubs to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1.health_pb2_grpc import HealthStub

from qwire.engine.fake import FakeEngine, fake_card
from qwire.engine.protocol import ModelCard
from qwire.rpc.config import HealthConfig, ServerConfig
from qwire.rpc.registry import ModelRegistry, ServedModel
from qwire.rpc.server import GatewayServer
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.v1 import health_pb2
from qwire.v1.batch_job_pb2_grpc import BatchJobServiceStub
from qwire.v1.batch_pb2_grpc import BatchServiceStub
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from qwire.v1.health_pb2_grpc import HealthServiceStub
from qwire.v1.model_pb2_grpc import ModelServiceStub

CONTEXT_TOKENS = 512
MAX_OUTPUT_TOKENS = 256
DEFAULT_MAX_OUTPUT_TOKENS = 16
CONFIG = ServerConfig(
    port=0,
    reuse_port=False,
    drain_notice_s=0.0,
    health=HealthConfig(probe_interval_s=0.1, starting_interval_s=0.02, probe_timeout_s=1.0),
)
STEPWISE = replace(CONFIG, max_stream_buffer_bytes=0)
"""Nothing is read ahead, so that each of an engine's chunks is a message of its own."""
CALM = replace(CONFIG, health=replace(CONFIG.health, probe_interval_s=3600.0))
"""For engines with few places: after the first one, probes take none of them."""


class Stubs:
    """The services of a server as a client sees them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.generate = GenerateServiceStub(channel)
        self.batch = BatchServiceStub(channel)
        self.jobs = BatchJobServiceStub(channel)
        self.models = ModelServiceStub(channel)
        self.health = HealthServiceStub(channel)
        self.standard_health: Any = HealthStub(channel)


@dataclass(frozen=True, slots=True)
class Edge:
    """A running server and what is behind it."""

    server: GatewayServer
    registry: ModelRegistry
    port: int
    stubs: Stubs

    async def wait_state(self, state: health_pb2.ServingState.ValueType) -> health_pb2.ServingStatus:
        """Wait until the gateway as a whole is in a state."""
        async for response in self.stubs.health.WatchServingState(health_pb2.WatchServingStateRequest(), timeout=20):
            if response.status.state == state:
                return response.status
        raise AssertionError("the watch ended")


def card_of(processor: TextProcessor, model_id: str = "tiny") -> ModelCard:
    """Return the card of a small model with the processor's vocabulary."""
    tokens = processor.vocabulary_tokens
    return replace(
        fake_card(model_id, vocabulary_tokens=tokens, context_tokens=CONTEXT_TOKENS),
        max_output_tokens=MAX_OUTPUT_TOKENS,
        default_max_output_tokens=DEFAULT_MAX_OUTPUT_TOKENS,
        eos_token_ids=frozenset({tokens - 1}),
        weights_sha256="a" * 64,
    )


async def served(processor: TextProcessor, engine: FakeEngine) -> ServedModel:
    """Return a model to add to a registry."""
    card = await engine.card()
    return ServedModel(card, Generator(processor, engine, card), engine)


@asynccontextmanager
async def open_edge(
    models: Sequence[ServedModel] = (),
    *,
    expected: Sequence[str] = (),
    config: ServerConfig = CONFIG,
    channel_options: Sequence[tuple[str, Any]] = (),
) -> AsyncGenerator[Edge, None]:
    """Run a server as long as the context lasts."""
    registry = ModelRegistry(expected, models)
    server = GatewayServer(registry, config)
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options) as channel:
            yield Edge(server, registry, port, Stubs(channel))
    finally:
        await server.drain(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds; fail when it does not within reason."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of another task's state there is no event
            await asyncio.sleep(0.002)
