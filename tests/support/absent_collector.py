"""An address at which no OTLP collector is, until a test is over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from tests.support.otlp_receiver import otlp_receiver


@contextmanager
def absent_collector() -> Generator[str]:
    """Yield an endpoint that refuses connections.

    At the end a collector comes and takes what exporters still hold, and their threads are waited for: they would
    outlive the test by half a minute, and draw random numbers between the tests that follow.
    """
    before = set(threading.enumerate())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        yield f"http://{address}"
        exporters = [thread for thread in set(threading.enumerate()) - before if _exports(thread)]
    with otlp_receiver(address):
        for thread in exporters:
            thread.join(timeout=60)
            assert not thread.is_alive(), thread.name


def _exports(thread: threading.Thread) -> bool:
    return thread.name.startswith(("Otel", "qwire-telemetry"))
