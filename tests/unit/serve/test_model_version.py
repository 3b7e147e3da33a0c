"""A gateway and a replica mean the same model or have nothing to do with each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwire.engine.chunk import TokenChunk
from qwire.engine.config import EngineConfig
from qwire.engine.errors import EngineUnavailable
from qwire.engine.fake import fake_card
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.checkpoint import Checkpoint
from qwire.serve.config import ModelSettings, ReplicaSettings
from qwire.serve.handle import Answers
from qwire.serve.model_version import ModelReplaced, model_version
from qwire.serve.remote import RemoteEngine
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.setup import Telemetry

FILES = Checkpoint(Path("x"), "m", "r", "", weights_sha256="a" * 64, tokenizer_sha256="b" * 64)
MODEL = ModelSettings(source="x")
REQUEST = TokenRequest((1, 2, 3), Envelope("r"), StopParams(10))


@pytest.mark.parametrize(
    ("model", "files"),
    [
        (MODEL, replace(FILES, weights_sha256="c" * 64)),
        (MODEL, replace(FILES, tokenizer_sha256="c" * 64)),
        (ModelSettings(source="x", engine=EngineConfig(quantization="none")), FILES),
        (ModelSettings(source="x", engine=EngineConfig(compute_dtype="float32")), FILES),
    ],
)
def test_what_can_change_a_text_makes_another_version(model: ModelSettings, files: Checkpoint):
    assert model_version(model, files) != model_version(MODEL, FILES)


def test_limits_and_places_do_not():
    other = ModelSettings(
        source="x", id="y", engine=EngineConfig(max_running=3), replicas=ReplicaSettings(max_replicas=3)
    )
    assert model_version(other, replace(FILES, folder=Path("y"), revision="s")) == model_version(MODEL, FILES)


class Replicas:
    """Stands for a `ReplicaHandle`: plays one script per call, a chunk of tokens or a failure at a time."""

    def __init__(self, *scripts: list[int | Exception], running: bool = True, startable: bool = True) -> None:
        self.scripts = list(scripts)
        self.asked: list[tuple[object, ...]] = []
        self.running = running
        self.startable = startable

    async def stream(self, method: str, *args: object, **_: object) -> AsyncGenerator[Any, None]:
        self.asked.append((method, *args))
        for item in self.scripts.pop(0):
            if isinstance(item, Exception):
                raise item
            yield TokenChunk((item,))

    async def broadcast(self, method: str, *args: object, timeout_s: float) -> Answers:
        del timeout_s
        if not self.running:
            raise EngineUnavailable
        self.asked.append((method, *args))
        return Answers([fake_card()], missing=0)

    async def call(self, method: str, *args: object, timeout_s: float) -> Any:
        self.running = True
        return (await self.broadcast(method, *args, timeout_s=timeout_s)).values[0]

    async def can_start(self) -> bool:
        return self.startable


def engine_of(replicas: Any, *, sleeps: bool = False) -> RemoteEngine:
    settings = ReplicaSettings(min_replicas=0 if sleeps else 1, failover_timeout_s=5.0)
    return RemoteEngine(replicas, "v1", settings, FailoverRecorder(Telemetry.disabled(), "tiny"))


async def test_a_lost_generation_does_not_go_on_with_another_model():
    replicas = Replicas([7, 8, EngineUnavailable()], [ModelReplaced(1.0)])
    tokens: list[int] = []

    async def read() -> None:
        async for chunk in engine_of(replicas).generate(REQUEST):
            tokens.extend(chunk.token_ids)

    with pytest.raises(ModelReplaced):
        await read()
    assert tokens == [7, 8]
    assert [asked[2] for asked in replicas.asked] == ["v1", "v1"]
    assert not replicas.scripts


async def test_a_model_that_may_sleep_is_woken_for_its_card():
    replicas = Replicas(running=False)
    assert await engine_of(replicas, sleeps=True).card() == fake_card()
    with pytest.raises(EngineUnavailable):
        await engine_of(Replicas(running=False)).card()


async def test_no_replica_is_a_fault_unless_it_may_sleep_and_can_start():
    assert (await engine_of(Replicas(running=False), sleeps=True).stats()).replicas == 0
    for replicas, sleeps in ((Replicas(running=False, startable=False), True), (Replicas(running=False), False)):
        with pytest.raises(EngineUnavailable):
            await engine_of(replicas, sleeps=sleeps).stats()
