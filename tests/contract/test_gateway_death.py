"""Gateways in processes of their own that are killed in mid-stream: the client's stream goes on, and is the same."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from qwire.client import (
    AsyncClient,
    Client,
    ClientOptions,
    Generation,
    GenerationOptions,
    ResumeOptions,
    RetryOptions,
    Unavailable,
)
from tests.support.gateway_process import GatewayProcess

OPTIONS = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.05, max_backoff_s=0.5))
PROMPT = "你好 🙂 and so on"
LONG: GenerationOptions = {"max_output_tokens": 150, "seed": 3}


async def test_a_stream_survives_the_restart_of_its_gateway(tokenizer_folder: Path):
    with GatewayProcess(tokenizer_folder) as gateway:
        async with AsyncClient(gateway.target, OPTIONS) as client:
            stream, seen, restarts = client.stream(PROMPT, **LONG), 0, list[asyncio.Future[None]]()
            async for _ in stream:
                seen += 1
                if seen in {10, 60}:
                    gateway.kill()
                    restarts.append(asyncio.ensure_future(asyncio.to_thread(gateway.start)))
            generation = await stream.generation()
            await asyncio.gather(*restarts)
            assert len(restarts) == 2
            same(generation, await client.stream(PROMPT, **LONG).generation())


def test_a_stream_survives_the_restart_of_its_gateway_without_asyncio(tokenizer_folder: Path):
    with GatewayProcess(tokenizer_folder) as gateway, Client(gateway.target, OPTIONS) as client:
        stream, restart = client.stream(PROMPT, **LONG), threading.Thread(target=gateway.start)
        for seen, _ in enumerate(stream):
            if seen == 20:
                gateway.kill()
                restart.start()
        restart.join()
        same(stream.generation(), client.stream(PROMPT, **LONG).generation())


@pytest.mark.parametrize("policy", ["pick_first", "round_robin"])
async def test_streams_of_a_dead_gateway_go_on_at_another_one(tokenizer_folder: Path, policy: str):
    with GatewayProcess(tokenizer_folder) as first, GatewayProcess(tokenizer_folder) as second:
        options = ClientOptions(resume=OPTIONS.resume, channel_options=(("grpc.lb_policy_name", policy),))
        async with AsyncClient(f"ipv4:{first.target},{second.target}", options) as client:
            undisturbed = await client.stream(PROMPT, **LONG).generation()
            streams = [client.stream(PROMPT, **LONG) for _ in range(4)]
            for stream in streams:
                for _ in range(5):
                    await anext(stream)
            first.kill()
            for generation in await asyncio.gather(*(stream.generation() for stream in streams)):
                same(generation, undisturbed)


async def test_a_gateway_that_does_not_come_back_is_given_up(tokenizer_folder: Path):
    options = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.05, timeout_s=0.5), retry=None)
    with GatewayProcess(tokenizer_folder) as gateway:
        async with AsyncClient(gateway.target, options) as client:
            stream = client.stream(PROMPT, **LONG)
            for _ in range(10):
                await anext(stream)
            gateway.kill()
            with pytest.raises(Unavailable) as broken:
                await stream.generation()
            point = broken.value.resume_point
            assert point is not None
        gateway.start()
        async with AsyncClient(gateway.target) as client:
            rest = await client.stream(PROMPT, resume=point, **LONG).generation()
            undisturbed = await client.stream(PROMPT, **LONG).generation()
    assert (*point.output_token_ids, *(token.id for token in rest.tokens)) == ids(undisturbed)
    assert rest.usage == undisturbed.usage


async def test_whole_generations_survive_the_restart_of_their_gateway(tokenizer_folder: Path):
    # So long that gRPC's own retries are over before it is back.
    options = ClientOptions(resume=OPTIONS.resume, retry=RetryOptions(max_attempts=2, initial_backoff_s=0.01))
    with GatewayProcess(tokenizer_folder, step_s=0.01) as gateway, Client(gateway.target, options) as blocking:
        async with AsyncClient(gateway.target, options) as client:

            async def both() -> tuple[Generation, Generation]:
                return await asyncio.gather(
                    client.generate(PROMPT, **LONG), asyncio.to_thread(blocking.generate, PROMPT, **LONG)
                )

            undisturbed = await both()
            calls = asyncio.ensure_future(both())
            await asyncio.sleep(0.5)
            assert not calls.done()
            gateway.kill()
            await asyncio.to_thread(gateway.start)
            for generation, whole in zip(await calls, undisturbed, strict=True):
                same(generation, whole)


def ids(generation: Generation) -> tuple[int, ...]:
    """Its token ids."""
    return tuple(token.id for token in generation.tokens)


def same(resumed: Generation, undisturbed: Generation) -> None:
    """Both say the same."""
    assert ids(resumed) == ids(undisturbed)
    assert len(ids(resumed)) == LONG.get("max_output_tokens")
    assert resumed.text == undisturbed.text
    assert resumed.usage == undisturbed.usage
