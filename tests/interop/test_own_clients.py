"""Our own clients and the command line against the real gateway, as against the fake server."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from qwire.cli.commands import app
from qwire.client import (
    AsyncClient,
    BatchItem,
    Cancelled,
    Client,
    ContextLengthExceeded,
    FinishReason,
    InvalidRequest,
    ModelNotFound,
    ServingState,
    TextPrompt,
    TokenPrompt,
)
from tests.interop.conftest import ANSWER


async def test_the_asyncio_client(server_address: str) -> None:
    async with AsyncClient(server_address) as client:
        generation = await client.generate("hi", max_output_tokens=100)
        assert generation.text == ANSWER
        assert generation.finished.reason is FinishReason.END_OF_TURN
        async with client.stream(TokenPrompt([1, 2]), max_output_tokens=100) as stream:
            assert "".join([text async for text in stream.text_stream]) == ANSWER
            assert (await stream.generation()).tokens == generation.tokens
        good, bad = await client.batch(["hi", BatchItem(TextPrompt("hi"), options={"top_p": 7})], max_output_tokens=4)
        assert good.unwrap().finished.reason is FinishReason.LENGTH
        assert isinstance(bad.error, InvalidRequest)
        assert [violation.field for violation in bad.error.violations] == ["items[1].spec.sampling.top_p"]
        async with client.stream_batch(["one", "two"]) as batch:
            assert sorted([result.id async for result in batch]) == ["0", "1"]
        assert (await client.count_tokens("hi")).tokens > 2
        (model,) = await client.models()
        assert (await client.model(model.id)) == model
        async with client.watch_health() as changes:
            assert (await anext(changes)).state is ServingState.READY
        assert (await client.probe()).model == model.id


async def test_errors_of_the_gateway_are_typed(server_address: str) -> None:
    async with AsyncClient(server_address) as client:
        with pytest.raises(InvalidRequest, match=r"spec\.sampling\.temperature"):
            await client.generate("hi", temperature=-1)
        with pytest.raises(ContextLengthExceeded):
            await client.generate("hi " * 1000)
        with pytest.raises(ModelNotFound) as raised:
            await client.generate("hi", model="other")
        assert raised.value.metadata["model"] == "other"


async def test_cancel_by_id(server_address: str) -> None:
    async with AsyncClient(server_address) as client:
        stream = client.stream("hi", max_output_tokens=100)
        await anext(stream)
        assert stream.started is not None
        assert await client.cancel(stream.started.generation_id)
        with pytest.raises(Cancelled) as raised:
            await stream.generation()
        assert raised.value.generation_id == stream.started.generation_id


async def test_the_blocking_client_and_the_command_line(server_address: str) -> None:
    def work() -> None:
        with Client(server_address) as client:
            assert client.stream("hi", max_output_tokens=100).generation().text == ANSWER
        for arguments in (["health", "--probe"], ["models"], ["generate", "hi", "--max-tokens", "100"]):
            result = CliRunner().invoke(app, [*arguments, "--server", server_address])
            assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{ANSWER}\n"

    await asyncio.to_thread(work)
