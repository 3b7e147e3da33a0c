"""The whole path over real Ray: what the client gets is what the engine says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.client import (
    AdapterNotFound,
    AdapterUnusable,
    AsyncClient,
    GenerationOptions,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
)
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.models.store import ModelStore
from qwire.text.processor import TextProcessor
from qwire.text.request import ChatMessage, ChatPrompt, Role
from tests.cluster.conftest import Cluster

PROMPTS = [f"{'ping ' * i}pong {i}" for i in range(12)]


async def engine_outputs(cluster: Cluster, folder: Path, temperature: float) -> list[tuple[int, ...]]:
    """What the same engine says in this process, one request at a time."""
    checkpoint = ModelStore(folder).resolve(str(folder))
    processor = TextProcessor.from_folder(checkpoint.folder)
    engine = await LocalEngine.start(replace(checkpoint, model_id="x"), cluster.config.models[0].engine)
    outputs: list[tuple[int, ...]] = []
    for prompt in PROMPTS:
        request = TokenRequest(
            tuple(processor.encode(ChatPrompt((ChatMessage(Role.USER, prompt),)))),
            Envelope(prompt),
            StopParams(40, ignore_eos=True),
            SamplingParams(temperature=temperature, seed=7),
        )
        outputs.append(tuple([token async for chunk in engine.generate(request) for token in chunk.token_ids]))
    await engine.close()
    return outputs


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_streams_carry_the_tokens_of_the_engine(
    cluster: Cluster, client: AsyncClient, tiny_folders: tuple[Path, Path], temperature: float
) -> None:
    async def stream(prompt: str) -> tuple[int, ...]:
        options = GenerationOptions(
            model="tiny-a", max_output_tokens=40, ignore_eos=True, temperature=temperature, top_k=0, seed=7
        )
        async with client.stream(prompt, **options) as events:
            generation = await events.generation()
        assert generation.finished.usage.output_tokens == 40
        return tuple(token.id for token in generation.tokens)

    served = await asyncio.gather(*map(stream, PROMPTS))
    assert served == await engine_outputs(cluster, tiny_folders[0], temperature)


async def test_each_model_answers_for_itself(client: AsyncClient) -> None:
    first, second = [
        await client.generate("hello", model=model, max_output_tokens=16, ignore_eos=True, temperature=0)
        for model in ("tiny-a", "tiny-b")
    ]
    assert first.started.model == "tiny-a"
    assert second.started.model == "tiny-b"
    assert [token.id for token in first.tokens] != [token.id for token in second.tokens]
    assert [model.id for model in await client.models()] == ["tiny-a", "tiny-b"]


async def test_adapters_are_those_of_the_replica(client: AsyncClient) -> None:
    async def answer(adapter: str | None) -> str:
        generation = await client.generate(
            "hello", model="tiny-a", adapter=adapter, max_output_tokens=16, ignore_eos=True, temperature=0
        )
        return generation.text

    plain, fine = await asyncio.gather(answer(None), answer("fine"))
    assert plain != fine
    told = {adapter.id: adapter.loaded for adapter in await client.adapters("tiny-a")}
    assert told == {"broken": False, "fine": True}
    with pytest.raises(AdapterNotFound):
        await answer("absent")
    with pytest.raises(AdapterUnusable, match="damaged or incomplete"):
        await answer("broken")


async def test_batch_items_have_their_own_fate(client: AsyncClient) -> None:
    results = await client.batch(["one", "", "three"], model="tiny-a", max_output_tokens=4, ignore_eos=True)
    assert [result.error is None for result in results] == [True, False, True]
    with pytest.raises(InvalidRequest) as caught:
        results[1].unwrap()
    assert caught.value.violations[0].field == "items[1].spec.chat.messages[0].text"


async def test_unknown_and_missing_model(client: AsyncClient) -> None:
    with pytest.raises(ModelNotFound):
        await client.generate("hello", model="absent")
    with pytest.raises(ModelNotFound):
        await client.generate("hello")


async def test_more_than_the_queue_holds_is_refused_with_a_time_to_come_back(client: AsyncClient) -> None:
    async def ask(number: int) -> object:
        try:
            return await client.generate(f"{number}", model="tiny-a", max_output_tokens=200, ignore_eos=True)
        except Overloaded as error:
            return error

    outcomes = await asyncio.gather(*(ask(number) for number in range(330)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert refused
    assert all(error.retry_after_s is not None and error.retry_after_s > 0 for error in refused)
    assert len(outcomes) - len(refused) >= 264  # 8 that run and 256 that wait were never refused
