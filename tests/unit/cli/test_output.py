"""What reaches a terminal and what a pipe."""

from __future__ import annotations

import io
import sys

import pytest

from qwire.cli.output import write_answer
from qwire.cli.thinking import answer_of
from qwire.client import Channel, Delta
from qwire.client.testing import FakeServer

from .conftest import Run


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    write_answer(["a\x1b[2Jb\r", "\x9bc\x7f\td\n"])
    assert terminal.getvalue() == "a\u241b[2Jb\u240d\ufffdc\ufffd\td\n"


def test_control_characters_are_kept_in_a_pipe(run: Run) -> None:
    with FakeServer(reply="a\x1b[2Jb") as server:
        assert run("generate", "hi", "--server", server.target).stdout == "a\x1b[2Jb\n"


def test_thinking_is_dimmed_on_a_terminal_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    events = [Delta(Channel.REASONING, "a\x1b[2J", ()), Delta(Channel.TEXT, "", ()), Delta(Channel.TEXT, "b", ())]
    assert list(answer_of(events)) == ["b"]
    assert terminal.getvalue() == "\x1b[2ma\u241b[2J\x1b[0m\x1b[2m\n\n\x1b[0m"
