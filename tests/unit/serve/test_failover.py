"""A generation whose replica is lost goes on elsewhere, and says everything once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from qwire.engine.chunk import MAX_PROMPT_RECORDS, TokenChunk, TokenLogprobs
from qwire.engine.errors import EngineUnavailable
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import AdapterInfo
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.serve.config import ReplicaSettings
from qwire.serve.handle import ReplicaHandle
from qwire.serve.remote import RemoteEngine
from qwire.serve.route import Route
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.setup import Telemetry

PROMPT = tuple(range(3 * MAX_PROMPT_RECORDS + 5))
REQUEST = TokenRequest(PROMPT, Envelope("a"), StopParams(4), top_logprobs=2, prompt_logprobs=2)


class MortalReplicas:
    """Replicas that each die after so many chunks; the last one lives."""

    def __init__(self, *deaths: int, adapter_sha256: str = "") -> None:
        self._deaths = list(deaths)
        self._adapters = (AdapterInfo("one", 2, loaded=True, sha256=adapter_sha256),)
        self.requests: list[TokenRequest] = []

    async def stream(
        self, method: str, request: TokenRequest, version: str, route: Route, **_: object
    ) -> AsyncGenerator[TokenChunk, None]:
        assert (method, version, route.replica) == ("generate", "v1", "")
        self.requests.append(request)
        left = self._deaths.pop(0) if self._deaths else None
        engine = FakeEngine()
        engine.adapter_infos = self._adapters
        async with aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                if left == 0:
                    raise EngineUnavailable(0.001)
                left = None if left is None else left - 1
                yield chunk


async def told(
    replicas: MortalReplicas, request: TokenRequest = REQUEST
) -> tuple[list[int], list[TokenLogprobs], list[TokenLogprobs | None]]:
    engine = RemoteEngine(
        cast("ReplicaHandle", replicas),
        "v1",
        ReplicaSettings(failover_timeout_s=30.0),
        FailoverRecorder(Telemetry.disabled(), "tiny"),
    )
    chunks: list[Any] = []
    async with asyncio.timeout(30), aclosing(engine.generate(request)) as generation:
        async for chunk in generation:
            assert chunk.token_ids or chunk.prompt_logprobs
            chunks.append(chunk)
    return (
        [one for chunk in chunks for one in chunk.token_ids],
        [one for chunk in chunks for one in chunk.logprobs],
        [one for chunk in chunks for one in chunk.prompt_logprobs],
    )


@pytest.mark.parametrize("deaths", [(0,), (1,), (3,), (4,), (5,), (7,), (2, 1, 3), (3, 4, 2), (4, 1, 1), (2, 0, 5, 1)])
async def test_everything_is_told_once_wherever_replicas_die(deaths: tuple[int, ...]) -> None:
    whole = await told(MortalReplicas())
    assert [len(part) for part in whole] == [4, 4, len(PROMPT)]
    mortal = MortalReplicas(*deaths)
    assert await told(mortal) == whole
    assert len(mortal.requests) == len(deaths) + 1
    for request in mortal.requests:
        assert (request.prompt_logprobs is None) == (len(request.output_token_ids) > 0)


async def test_it_goes_on_with_the_adapter_that_it_began_with() -> None:
    mortal = MortalReplicas(0, 2, 1, adapter_sha256="first")
    await told(mortal, replace(REQUEST, adapter="one", prompt_logprobs=None))
    assert [request.adapter_sha256 for request in mortal.requests] == ["", "", "first", "first"]
    assert [len(request.output_token_ids) for request in mortal.requests] == [0, 0, 2, 3]
    reading = MortalReplicas(1, 0, adapter_sha256="first")
    await told(reading, replace(REQUEST, adapter="one"))
    assert [request.adapter_sha256 for request in reading.requests] == ["", "first", "first"]
    assert [len(request.output_token_ids) for request in reading.requests] == [0, 0, 0]
