"""A cut resets every connection, and nobody connects until it is over."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.wire import Wire


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1024):
        writer.write(data)
    writer.close()


async def test_a_cut_and_its_end() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, Wire(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as wire:
        host, _, port = wire.target.rpartition(":")

        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            writer.write(b"ping")
            return await reader.read(1024)

        before = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        assert [await says(*one) for one in before] == [b"ping"] * 3
        assert wire.cut() == 3
        for reader, writer in before:
            with pytest.raises(ConnectionError):
                assert await reader.read(1024), "closed, not reset"
            writer.close()
        reader, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises(ConnectionError):
            assert await reader.read(1024), "closed, not reset"
        writer.close()
        wire.mend()
        after = await asyncio.open_connection(host, int(port))
        assert await says(*after) == b"ping"
        after[1].close()
