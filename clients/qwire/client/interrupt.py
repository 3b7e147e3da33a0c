"""Keeps Ctrl-C out of places where gRPC cannot bear it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupt_held() -> Generator[None]:
    """Let a Ctrl-C that comes meanwhile act at the end.

    For the start of a streaming call, which takes no time: gRPC first starts the call and then the thread that serves
    it, and closing a channel waits for its calls for ever where a KeyboardInterrupt fell between the two.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # Ctrl-C raises nothing here
        return
    came: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[0])
