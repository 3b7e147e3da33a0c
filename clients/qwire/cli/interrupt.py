"""Ctrl-C while a call streams."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from qwire.client import Cancelled
from qwire.client.stream import EventStream

StreamT = TypeVar("StreamT", bound=EventStream[Any, Any])


@contextmanager
def cancelled_by_interrupt(start: Callable[[], StreamT]) -> Generator[StreamT]:
    """Start a stream that Ctrl-C cancels, and raise KeyboardInterrupt once it has ended.

    Raised in the middle of gRPC's own code instead, KeyboardInterrupt can leave a call half made or a lock taken, and
    closing the channel then waits for ever.
    """
    stream: StreamT | None = None
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        if stream is not None:
            stream.cancel()

    before = signal.getsignal(signal.SIGINT)
    # Only the main thread is told of signals; and SIG_IGN means that a shell started this in the background.
    listens = before is not signal.SIG_IGN and threading.current_thread() is threading.main_thread()
    if listens:
        signal.signal(signal.SIGINT, interrupt)
    try:
        stream = start()
        with stream:
            if interrupted:  # while it started
                stream.cancel()
            yield stream
    except Cancelled:
        if not interrupted:
            raise
    finally:
        if listens:
            signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
