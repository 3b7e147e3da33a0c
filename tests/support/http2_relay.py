"""A relay between a gRPC client and its server that cuts streams the way dying peers and proxies do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

_DATA, _RST_STREAM, _GOAWAY = 0, 3, 7
_HEADER_BYTES = 9

Cut = Callable[[socket.socket, int], None]
"""Ends a stream: is given the client's socket and the number of the HTTP/2 stream."""


def reset_stream(code: int) -> Cut:
    """RST_STREAM with an HTTP/2 error code."""
    return lambda client, stream: client.sendall(_frame(_RST_STREAM, 0, stream, struct.pack("!I", code)))


def end_stream(client: socket.socket, stream: int) -> None:
    """END_STREAM without trailers."""
    client.sendall(_frame(_DATA, 1, stream, b""))


def go_away(client: socket.socket, stream: int) -> None:
    """GOAWAY that disowns every stream."""
    del stream
    client.sendall(_frame(_GOAWAY, 0, 0, struct.pack("!II", 0, 0)))


def close(client: socket.socket, stream: int) -> None:
    """The connection is closed."""
    del stream
    client.shutdown(socket.SHUT_RDWR)


def reset(client: socket.socket, stream: int) -> None:
    """The connection is reset."""
    del stream
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.shutdown(socket.SHUT_RD)
    client.close()


class Http2Relay:
    """Passes everything on until it is told to cut.

    Args:
        server: Where to, `host:port`.
        cut: How streams are cut.
    """

    def __init__(self, server: str, cut: Cut) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._cut = cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()  # frames are sent whole
        self._latest: tuple[socket.socket, int] | None = None
        self._dead = set[tuple[socket.socket, int]]()
        self._sockets: list[socket.socket] = [self._listener]
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Cut the stream that data came for last; no more data of it passes. No-op before new data comes."""
        with self._lock:
            latest, self._latest = self._latest, None
            if latest is not None:
                self._dead.add(latest)
                self._cut(*latest)

    def serve(self) -> None:
        """Take connections until closed."""
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            self._sockets += (client, server)
            for pump in (self._up, self._down):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @staticmethod
    def _up(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), server.makefile("rb") as source:
            while len(header := source.read(_HEADER_BYTES)) == _HEADER_BYTES:
                body = source.read(int.from_bytes(header[:3], "big"))
                stream = int.from_bytes(header[5:], "big")
                with self._lock:
                    if header[3] == _DATA and (client, stream) in self._dead:
                        continue
                    client.sendall(header + body)
                    if header[3] == _DATA:
                        self._latest = (client, stream)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


@contextmanager
def http2_relay(server: str, cut: Cut) -> Generator[Http2Relay]:
    """Run a relay as long as the context lasts."""
    relay = Http2Relay(server, cut)
    thread = threading.Thread(target=relay.serve, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.close()
        thread.join()
