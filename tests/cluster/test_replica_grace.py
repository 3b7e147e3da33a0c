"""A deploy whose grace is shorter than the streams: a replica is ended under them, and they go on at the new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.client import AsyncClient, Generation, GenerationOptions
from qwire.serve import app as application
from qwire.serve.config import ModelSettings
from qwire.telemetry.setup import TelemetryConfig
from tests.cluster.conftest import Cluster, app_config, ready
from tests.support.otlp_receiver import OtlpReceiver, attributes, eventually

GRACE_S = 0.5
# Of different lengths, so that they never are all about to end.
STREAMS: tuple[GenerationOptions, ...] = tuple(
    {"max_output_tokens": tokens, "ignore_eos": True, "temperature": 1.0, "seed": tokens}
    for tokens in (1100, 1700, 2500)
)


@pytest.fixture
def hasty(
    ray_cluster: None,  # noqa: ARG001
    tiny_folders: tuple[Path, Path],
    collector: OtlpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[Cluster]:
    """An application whose replicas are given less time than its gateway, which waits for its streams."""
    from ray import serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    deployment: Callable[[ModelSettings, float], object] = vars(application)["_replica_deployment"]

    def hurried(model: ModelSettings, grace_s: float) -> object:
        assert grace_s > GRACE_S
        return deployment(model, GRACE_S)

    monkeypatch.setattr(application, "_replica_deployment", hurried)
    telemetry = TelemetryConfig(otlp_endpoint=collector.endpoint)
    cluster = Cluster(app_config({"hasty": tiny_folders[0]}, telemetry, surge_percent=100), app="hasty")
    cluster.deploy()
    yield cluster
    serve.delete("hasty")


async def test_streams_survive_the_end_of_their_replicas_grace(hasty: Cluster, collector: OtlpReceiver) -> None:
    (model,) = hasty.config.models
    changed = model.replicas.model_copy(update={"stall_timeout_s": model.replicas.stall_timeout_s + 1})
    models = (model.model_copy(update={"replicas": changed}),)
    update = replace(hasty, config=hasty.config.model_copy(update={"models": models}))

    async with AsyncClient(hasty.target) as client:
        await ready(client)
        undisturbed = [await client.generate("endless", **options) for options in STREAMS]
        deployed = asyncio.create_task(asyncio.to_thread(update.deploy))

        async def streams(options: GenerationOptions) -> list[Generation]:
            """Stream until the deploy is over."""
            generations: list[Generation] = []
            while not deployed.done():
                generations.append(await client.stream("endless", **options).generation())
            return generations

        for whole, generations in zip(undisturbed, await asyncio.gather(*map(streams, STREAMS)), strict=True):
            for generation in generations:
                assert [token.id for token in generation.tokens] == [token.id for token in whole.tokens]
                assert generation.text == whole.text
                assert generation.usage.output_tokens == whole.usage.output_tokens
        await deployed

    def attempts() -> list[dict[str, object]]:
        spans = [attributes(span.attributes) for span in collector.spans if span.name == "attempt"]
        return [span for span in spans if span["gen_ai.request.model"] == "hasty"]

    await eventually(lambda: len(attempts()) >= 2)
    lost = [span for span in attempts() if "error.type" in span]
    assert {span["error.type"] for span in lost} == {"EngineUnavailable"}
    assert any(int(str(span["gen_ai.usage.output_tokens"])) > 0 for span in lost), "none was cut in the middle"
    old, new = (
        {span["qwire.replica.id"] for span in spans} for spans in (lost, [s for s in attempts() if s not in lost])
    )
    assert (len(old), len(new)) == (1, 1)
    assert old != new
