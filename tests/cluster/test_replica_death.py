"""A replica that dies in mid-stream: the stream goes on, or ends with an honest error; health tells the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from qwire.client import AsyncClient, ClientOptions, Delta, GenerationOptions, Unavailable
from qwire.telemetry.setup import TelemetryConfig
from tests.cluster.conftest import Cluster, app_config, ready
from tests.support.otlp_receiver import OtlpReceiver, attributes, eventually


@pytest.fixture
def mortal(
    ray_cluster: None,  # noqa: ARG001
    tiny_folders: tuple[Path, Path],
    adapters: Path,
    collector: OtlpReceiver,
) -> Generator[Cluster]:
    """An application of its own, for a replica to die in."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    telemetry = TelemetryConfig(otlp_endpoint=collector.endpoint)
    cluster = Cluster(app_config({"mortal": tiny_folders[0]}, telemetry, adapters), app="mortal")
    cluster.deploy()
    yield cluster
    serve.delete("mortal")


async def ask_for_ever(client: AsyncClient) -> None:
    """Ask until it fails."""
    while True:
        await client.generate("late", max_output_tokens=1, timeout_s=5)


def kill_replica() -> None:
    """Kill the process of the only replica."""
    import ray  # noqa: PLC0415 - as above

    actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)  # dictionaries, whatever its annotation says
    (name,) = [actor["name"] for actor in actors if actor["name"].startswith("SERVE_REPLICA::mortal#model-mortal#")]
    ray.kill(ray.get_actor(name, namespace="serve"))


LONG: GenerationOptions = {"max_output_tokens": 600, "ignore_eos": True}
SAMPLED: GenerationOptions = {**LONG, "temperature": 2.0, "seed": 11, "top_p": 0.95}
PENALIZED: GenerationOptions = {**LONG, "temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5}


ADAPTED: GenerationOptions = {**LONG, "temperature": 0.0, "adapter": "fine"}


@pytest.mark.parametrize("options", [SAMPLED, PENALIZED, ADAPTED], ids=["sampled", "penalized", "adapted"])
async def test_a_stream_survives_the_deaths_of_its_replica(
    mortal: Cluster, collector: OtlpReceiver, options: GenerationOptions
) -> None:
    async with AsyncClient(mortal.target) as client:
        await ready(client)
        undisturbed = await client.generate("endless", **options)
        deaths = 0
        async with client.stream("endless", **options) as stream:
            came = 0
            async for event in stream:  # the client itself refuses a gap in the sequence
                came += len(event.tokens) if isinstance(event, Delta) else 0
                if deaths < 2 and came > 40 * (deaths + 1):
                    kill_replica()
                    deaths += 1
            generation = await stream.generation()
    assert deaths == 2
    assert [token.id for token in generation.tokens] == [token.id for token in undisturbed.tokens]
    assert generation.text == undisturbed.text
    assert generation.finished.reason == undisturbed.finished.reason
    assert generation.finished.usage.output_tokens == 600

    def replicas(span_name: str) -> list[object]:
        spans = (attributes(span.attributes) for span in collector.spans if span.name == span_name)
        own = (span for span in spans if span["gen_ai.response.id"] == generation.started.generation_id)
        return [span.get("qwire.replica.id") for span in own]

    def told() -> bool:
        took = [replica for replica in replicas("attempt") if replica is not None]
        return len(set(took)) == 3 and replicas("decode") == took[-1:]  # the dead ones told nothing

    await eventually(told)


async def test_a_stream_that_may_not_go_on_elsewhere_says_so(
    ray_cluster: None,  # noqa: ARG001
    tiny_folders: tuple[Path, Path],
) -> None:
    from ray import serve  # noqa: PLC0415 - as above

    brittle = Cluster(app_config({"mortal": tiny_folders[0]}, failover_timeout_s=0.0), app="mortal")
    brittle.deploy()
    try:
        await _death_in_mid_stream(brittle)
    finally:
        serve.delete("mortal")


async def _death_in_mid_stream(mortal: Cluster) -> None:
    async with AsyncClient(mortal.target) as client:
        await ready(client)
        async with client.stream("endless", auto_resume=False, max_output_tokens=3000, ignore_eos=True) as stream:
            async for _ in stream.text_stream:
                break
            kill_replica()
            with pytest.raises(Unavailable) as caught:
                await stream.generation()
        assert caught.value.retry_after_s is not None
        point = caught.value.resume_point
        assert point is not None
        assert caught.value.metadata["output_tokens"] == str(len(point.output_token_ids))
        await ready(client)  # Serve replaced it, and a real token came from it
        answer = await client.generate("back?", max_output_tokens=3, ignore_eos=True, timeout_s=60)
        assert answer.finished.usage.output_tokens == 3


async def test_health_watch_tells_the_death_and_the_return(mortal: Cluster) -> None:
    import grpc.aio  # noqa: PLC0415 - beside Ray

    async with grpc.aio.insecure_channel(mortal.target) as channel:
        stub: Any = HealthStub(channel)
        states: list[int] = []
        killed = False
        async for response in stub.Watch(HealthCheckRequest(service="model/mortal"), timeout=90):
            states.append(response.status)
            if response.status == HealthCheckResponse.SERVING:
                if killed:
                    break
                kill_replica()
                killed = True
        assert states[-2:] == [HealthCheckResponse.NOT_SERVING, HealthCheckResponse.SERVING]


async def test_drain_refuses_new_calls_and_finishes_open_ones(mortal: Cluster) -> None:
    from ray import serve  # noqa: PLC0415 - as above

    impatient = ClientOptions(resume=None)
    async with AsyncClient(mortal.target) as client, AsyncClient(mortal.target, options=impatient) as late:
        await ready(client)
        await late.health()
        async with client.stream("endless", max_output_tokens=800, ignore_eos=True) as stream:
            async for _ in stream.text_stream:
                break
            draining = asyncio.ensure_future(
                serve.get_app_handle("mortal").broadcast("drain").results_async(timeout_s=30)
            )
            with pytest.raises(Unavailable):
                await ask_for_ever(late)
            generation = await stream.generation()
            assert generation.finished.usage.output_tokens == 800
        await draining
