"""Ctrl-C does not fall into the start of a stream, and is not lost there either."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator

import pytest

from qwire.client import Client
from qwire.client.interrupt import interrupt_held
from qwire.client.testing import FakeServer


@pytest.fixture(autouse=True)
def default_handler() -> Generator[None]:
    """As in a program started from a terminal, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_acts_at_the_end() -> None:
    reached: list[str] = []

    def start() -> None:
        with interrupt_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_comes_first() -> None:
    with pytest.raises(ZeroDivisionError), interrupt_held():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_have_nothing_to_hold() -> None:
    texts: list[str] = []
    with FakeServer() as server, Client(server.target) as client:
        thread = threading.Thread(target=lambda: texts.append(client.stream("hi").generation().text))
        thread.start()
        thread.join()
    assert texts == ["hello"]


def test_a_program_that_ignores_ctrl_c_keeps_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt_held():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
