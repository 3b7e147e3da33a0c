"""The network between clients and gateway: a TCP proxy that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Any, Self


class Wire:
    """Passes bytes on, both ways, until it is cut.

    Args:
        target: Where to, `host:port`.

    Attributes:
        target: Where clients connect.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._address = (host, int(port))
        self._open: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[Any]] = set()
        self._is_cut = False
        self.target = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self._abort()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> int:
        """Reset every connection and refuse new ones from now on; return how many clients were cut off."""
        self._is_cut = True
        return self._abort()

    def mend(self) -> None:
        """Let clients connect again."""
        self._is_cut = False

    def _abort(self) -> int:
        writers = tuple(self._open)
        for writer in writers:
            _reset(writer)
        return len(writers) // 2

    async def _connect(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        try:
            if self._is_cut:
                raise ConnectionRefusedError
            from_server, to_server = await asyncio.open_connection(*self._address)
        except OSError:
            _reset(to_client)
            return
        writers = {to_client, to_server}
        self._open |= writers
        try:
            await asyncio.gather(_pump(from_client, to_server), _pump(from_server, to_client))
        finally:
            self._open -= writers
            for writer in writers:
                _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a peer that lost its state does: RST, not FIN."""
    with contextlib.suppress(OSError):  # it has ended already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()
