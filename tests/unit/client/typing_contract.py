"""What a type checker must see in the public names. Checked by pyright, never run.

Each `pyright: ignore` is a mistake that must be found: where it is not, pyright says that the comment is unnecessary.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

from qwire.client import (
    AsyncClient,
    AsyncGenerationStream,
    BatchFinished,
    BatchItem,
    BatchResult,
    Client,
    Delta,
    Finished,
    Generation,
    GenerationStream,
    Health,
    InvalidRequest,
    Model,
    Probe,
    PromptRead,
    QwireError,
    Started,
    TextPrompt,
    TokenCount,
    TokenPrompt,
    Tool,
    ToolCall,
)
from qwire.client.testing import FakeServer


def blocking(client: Client) -> None:
    assert_type(client.generate("hi", temperature=0, seed=1), Generation)
    assert_type(client.generate([("user", "hi")], stop_strings=["x"], timeout_s=1).text, str)
    assert_type(client.generate([{"role": "user", "content": "hi"}]).finished, Finished)
    client.generate(TextPrompt("a"))
    client.generate(TokenPrompt([1]))
    client.generate("hi", tools=[Tool("f")], reasoning=True, reasoning_budget_tokens=9)
    client.generate("hi", json_schema={"type": "object"})
    client.generate("hi", choices=["a", "b"], regex=None)
    client.generate("hi", choices=[1])  # pyright: ignore[reportArgumentType]
    client.generate("hi", tools=["f"])  # pyright: ignore[reportArgumentType]
    client.generate(5)  # pyright: ignore[reportArgumentType]
    client.generate("hi", temprature=1)  # pyright: ignore[reportCallIssue]
    client.generate("hi", temperature="hot")  # pyright: ignore[reportArgumentType]
    with client.stream("hi") as stream:
        assert_type(stream, GenerationStream)
        assert_type(stream.started, Started | None)
        for event in stream:
            assert_type(event, Started | PromptRead | Delta | ToolCall | Finished)
        for text in stream.text_stream:
            assert_type(text, str)
        assert_type(stream.generation(), Generation)
    assert_type(client.batch(["a", BatchItem("b", options={"seed": 1})], temperature=0), tuple[BatchResult, ...])
    with client.stream_batch(["a"]) as batch:
        for result in batch:
            assert_type(result, BatchResult)
            assert_type(result.unwrap(), Generation)
        assert_type(batch.finished, BatchFinished | None)
    assert_type(client.models(), tuple[Model, ...])
    assert_type(client.model("m"), Model)
    assert_type(client.count_tokens("hi"), TokenCount)
    assert_type(client.cancel("id"), bool)
    assert_type(client.health(), Health)
    assert_type(client.probe(), Probe)
    assert_type(next(client.watch_health()), Health)


async def with_asyncio(client: AsyncClient) -> None:
    assert_type(await client.generate("hi", max_output_tokens=4), Generation)
    async with client.stream("hi") as stream:
        assert_type(stream, AsyncGenerationStream)
        async for event in stream:
            assert_type(event, Started | PromptRead | Delta | ToolCall | Finished)
        async for text in stream.text_stream:
            assert_type(text, str)
        assert_type(await stream.generation(), Generation)
    async for result in client.stream_batch(["a"]):
        assert_type(result, BatchResult)
    assert_type(await client.models(), tuple[Model, ...])
    assert_type(await client.health(), Health)
    _ = client.generate("hi").text  # pyright: ignore[reportAttributeAccessIssue]


def results_are_frozen(generation: Generation, error: QwireError) -> None:
    generation.text = "other"  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(error.retry_after_s, float | None)
    if isinstance(error, InvalidRequest):
        assert_type(error.violations[0].field, str)


def the_fake_server_needs_no_more_than_a_reply() -> None:
    with FakeServer("hello") as server:
        assert_type(server.target, str)
