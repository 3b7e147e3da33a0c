"""grpc.health.v1 agrees with HealthService, before readiness, while serving, and while draining."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest

from qwire.engine.fake import FakeEngine
from qwire.rpc.server import SERVICES
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2, health_pb2
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import Edge, card_of, open_edge, served
from tests.contract.failure import failure_of

SERVING, NOT_SERVING, UNKNOWN = (
    HealthCheckResponse.SERVING,
    HealthCheckResponse.NOT_SERVING,
    HealthCheckResponse.SERVICE_UNKNOWN,
)
NAMES = ("", *SERVICES, "model/tiny")


async def check(edge: Edge, name: str) -> int:
    return (await edge.stubs.standard_health.Check(HealthCheckRequest(service=name))).status


async def test_not_serving_before_ready_then_serving_under_every_name(processor: TextProcessor):
    async with open_edge(expected=["tiny"]) as edge:
        watches = [edge.stubs.standard_health.Watch(HealthCheckRequest(service=name)) for name in NAMES]
        assert [await check(edge, name) for name in NAMES] == [NOT_SERVING] * len(NAMES)
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * len(NAMES)
        edge.registry.add(await served(processor, FakeEngine(card=card_of(processor))))
        assert [(await watch.read()).status for watch in watches] == [SERVING] * len(NAMES)
        assert [await check(edge, name) for name in NAMES] == [SERVING] * len(NAMES)
        for watch in watches:
            watch.cancel()


async def test_degraded_is_serving(edge: Edge, engine: FakeEngine):
    engine.memory_used_bytes = 4
    await edge.wait_state(health_pb2.SERVING_STATE_DEGRADED)
    assert await check(edge, "") == SERVING


async def test_list_tells_everything(edge: Edge):
    await edge.wait_state(health_pb2.SERVING_STATE_READY)
    listed = await edge.stubs.standard_health.List(HealthListRequest())
    assert {name: one.status for name, one in listed.statuses.items()} == dict.fromkeys(NAMES, SERVING)


async def test_unknown_service(edge: Edge):
    failure = await failure_of(edge.stubs.standard_health.Check(HealthCheckRequest(service="other")))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "SERVICE_NOT_FOUND")
    watch = edge.stubs.standard_health.Watch(HealthCheckRequest(service="other"))
    assert (await watch.read()).status == UNKNOWN
    watch.cancel()


async def test_watch_follows_a_death_and_stays_open(edge: Edge, engine: FakeEngine):
    await edge.wait_state(health_pb2.SERVING_STATE_READY)
    watch = edge.stubs.standard_health.Watch(HealthCheckRequest(service="model/tiny"))
    assert (await watch.read()).status == SERVING
    await engine.close()
    assert (await watch.read()).status == NOT_SERVING
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.read(), 0.3)


async def test_draining_is_told_at_once_and_the_watch_ends_with_the_server(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    async with open_edge([await served(processor, engine)]) as edge:
        await edge.wait_state(health_pb2.SERVING_STATE_READY)
        watch = edge.stubs.standard_health.Watch(HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        spec = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=60))
        call = edge.stubs.generate.StreamGenerate(generate_pb2.StreamGenerateRequest(spec=spec))
        await call.read()
        draining = asyncio.create_task(edge.server.drain(10))
        assert (await watch.read()).status == NOT_SERVING
        assert await check(edge, "model/tiny") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await draining
