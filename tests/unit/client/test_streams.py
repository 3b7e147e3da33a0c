"""Streams keep their contract or say so, and end when their caller wants it."""

from __future__ import annotations

import asyncio
import gc

import pytest

from qwire.client import (
    AsyncClient,
    AsyncGenerationStream,
    Cancelled,
    Client,
    DeadlineExceeded,
    StreamBroken,
    StreamTruncated,
)
from qwire.client.generation_reader import GenerationReader
from qwire.client.reader import BatchReader
from qwire.client.testing import Answer, FakeServer
from qwire.v1 import batch_pb2, generate_pb2, types_pb2

_SLOW = Answer(text="one two three", delay_s=60)
_LATER_SLOW = "word " * 100


def _event(sequence: int, kind: str) -> generate_pb2.StreamGenerateResponse:
    event = generate_pb2.StreamGenerateResponse(sequence=sequence)
    if kind:
        getattr(event, kind).SetInParent()
    if kind == "delta":
        event.delta.channel = types_pb2.CHANNEL_TEXT
    return event


def test_a_stream_without_its_end_is_an_error() -> None:
    with FakeServer(answers=[Answer(text="one two", truncate_after=1)]) as server, Client(server.target) as client:
        stream = client.stream("hi")
        with pytest.raises(StreamTruncated) as raised:
            list(stream)
        assert stream.text == "one"
        assert stream.started is not None
        assert raised.value.generation_id == stream.started.generation_id
        with pytest.raises(StreamTruncated):
            stream.generation()


async def test_a_stream_without_its_end_is_an_error_with_asyncio() -> None:
    with FakeServer(answers=[Answer(text="one two", truncate_after=1)]) as server:
        async with AsyncClient(server.target) as client:
            stream = client.stream("hi")
            for _ in range(2):
                with pytest.raises(StreamTruncated):
                    await stream.generation()


async def test_a_gap_in_the_sequence_is_an_error_and_ends_the_call() -> None:
    answer = Answer(text=_LATER_SLOW, delay_s=0.05, skip_sequence_after=1)
    with FakeServer(answers=[answer]) as server:
        with Client(server.target) as client:
            stream = client.stream("hi")
            with pytest.raises(StreamBroken, match="event 4 came where 3 was due"):
                stream.generation()
            assert server.wait_for_hang_up()
        async with AsyncClient(server.target) as client:
            with pytest.raises(StreamBroken, match="event 4 came where 3 was due"):
                await client.stream("hi").generation()
            assert await asyncio.to_thread(server.wait_for_hang_up)


@pytest.mark.parametrize(
    "kinds",
    [
        ["delta"],
        ["finished"],
        ["started", "started"],
        ["started", ""],
        ["", "started"],
        ["started", "finished", "delta"],
    ],
)
def test_events_out_of_order_or_unknown_are_errors(kinds: list[str]) -> None:
    reader = GenerationReader()
    *well, broken = [_event(sequence, kind) for sequence, kind in enumerate(kinds, start=1)]
    for event in well[: len(kinds) - 1 if kinds[0] else 0]:
        reader.read(event)
    with pytest.raises(StreamBroken):
        reader.read(well[0] if not kinds[0] else broken)


def test_a_channel_that_is_not_known_is_an_error() -> None:
    reader = GenerationReader()
    reader.read(_event(1, "started"))
    event = _event(2, "delta")
    event.delta.channel = 9  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StreamBroken, match="channel"):
        reader.read(event)


def test_a_batch_stream_keeps_its_contract_too() -> None:
    result = batch_pb2.BatchItemResult(id="a", generation=types_pb2.Generation())
    reader = BatchReader()
    reader.read(batch_pb2.StreamBatchGenerateResponse(sequence=1, result=result))
    with pytest.raises(StreamTruncated):
        reader.end()
    with pytest.raises(StreamBroken, match="due"):
        reader.read(batch_pb2.StreamBatchGenerateResponse(sequence=1, result=result))
    with pytest.raises(StreamBroken, match="no outcome"):
        reader.read(batch_pb2.StreamBatchGenerateResponse(sequence=2, result=batch_pb2.BatchItemResult(id="b")))
    reader.read(batch_pb2.StreamBatchGenerateResponse(sequence=3, finished=batch_pb2.BatchFinished()))
    with pytest.raises(StreamBroken, match="after"):
        reader.read(batch_pb2.StreamBatchGenerateResponse(sequence=4, result=result))


def test_cancel_ends_the_call_on_the_server() -> None:
    with FakeServer(answers=[_SLOW]) as server, Client(server.target) as client:
        stream = client.stream("hi")
        next(stream)
        stream.cancel()
        stream.cancel()
        with pytest.raises(Cancelled) as raised:
            stream.generation()
        assert server.wait_for_hang_up()
        assert stream.started is not None
        assert raised.value.generation_id == stream.started.generation_id


def test_leaving_the_block_ends_the_call_on_the_server() -> None:
    with FakeServer(answers=[_SLOW]) as server, Client(server.target) as client:
        with client.stream("hi") as stream:
            next(stream)
        assert server.wait_for_hang_up()


def test_dropping_the_stream_ends_the_call_on_the_server() -> None:
    with FakeServer(answers=[_SLOW]) as server, Client(server.target) as client:
        next(client.stream("hi"))
        assert server.wait_for_hang_up()


async def test_dropping_the_stream_ends_the_call_on_the_server_with_asyncio() -> None:
    async def leave(client: AsyncClient) -> None:
        async for _ in client.stream("hi").text_stream:
            break

    with FakeServer(answers=[Answer(text=_LATER_SLOW, delay_s=0.05)]) as server:
        async with AsyncClient(server.target) as client:
            await leave(client)
            assert await asyncio.to_thread(server.wait_for_hang_up)


def test_a_stream_may_outlive_its_event_loop() -> None:
    async def begin(server: FakeServer) -> AsyncGenerationStream:
        client = AsyncClient(server.target)
        stream = client.stream("hi")
        await anext(stream)
        return stream

    with FakeServer(answers=[_SLOW]) as server:
        stream = asyncio.run(begin(server))
        del stream  # an error in `__del__` would fail the test as an unraisable exception
        gc.collect()


def test_closing_the_client_ends_its_calls() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        client = Client(server.target)
        stream = client.stream("hi")
        next(stream)
        client.close()
        assert server.wait_for_hang_up()
        with pytest.raises(Cancelled):
            stream.generation()


async def test_cancel_with_asyncio_is_an_error_of_ours_not_of_the_task() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target) as client:
            stream = client.stream("hi")
            await anext(stream)
            asyncio.get_running_loop().call_later(0.05, stream.cancel)  # while the next event is waited for
            with pytest.raises(Cancelled) as raised:
                await stream.generation()
            assert stream.started is not None
            assert raised.value.generation_id == stream.started.generation_id
            assert await asyncio.to_thread(server.wait_for_hang_up)


async def test_cancel_before_the_first_event_with_asyncio() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target) as client:
            stream = client.stream("hi")
            stream.cancel()
            with pytest.raises(Cancelled):
                await anext(stream)


async def test_cancelling_the_task_cancels_the_task_and_the_call() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target) as client:
            stream = client.stream("hi")
            await anext(stream)
            task = asyncio.create_task(stream.generation())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.wait_for_hang_up)


async def test_cancelling_the_task_of_a_unary_call() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.generate("hi")
            assert await asyncio.to_thread(server.wait_for_hang_up)


async def test_leaving_the_block_with_asyncio() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target) as client:
            async with client.stream("hi") as stream:
                await anext(stream)
            assert await asyncio.to_thread(server.wait_for_hang_up)


async def test_cancel_by_id_from_elsewhere() -> None:
    with FakeServer(answers=[_SLOW]) as server, Client(server.target) as other:
        async with AsyncClient(server.target) as client:
            stream = client.stream("hi")
            await anext(stream)
            assert stream.started is not None
            assert other.cancel(stream.started.generation_id)
            with pytest.raises(Cancelled) as raised:
                await stream.generation()
            assert raised.value.reason == "CANCELLED"
            assert not other.cancel(stream.started.generation_id)


def test_the_deadline_ends_the_call_on_both_sides() -> None:
    with FakeServer(answers=[_SLOW]) as server, Client(server.target) as client:
        with pytest.raises(DeadlineExceeded, match="time allowed"):
            client.stream("hi", timeout_s=0.3).generation()
        assert server.wait_for_hang_up()
        with pytest.raises(DeadlineExceeded):
            client.generate("hi", timeout_s=0.3)
        assert server.wait_for_hang_up()


async def test_the_deadline_with_asyncio() -> None:
    with FakeServer(answers=[_SLOW]) as server:
        async with AsyncClient(server.target) as client:
            with pytest.raises(DeadlineExceeded):
                await client.stream("hi", timeout_s=0.3).generation()
            with pytest.raises(DeadlineExceeded):
                await client.generate("hi", timeout_s=0.3)
