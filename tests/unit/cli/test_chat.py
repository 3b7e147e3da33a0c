"""`qwire chat`: a conversation that remembers what went well."""

from __future__ import annotations

import grpc

from qwire.client.testing import Answer, Failure, FakeServer

from .conftest import Run, spec_of


def test_chat_remembers_and_forgets(run: Run) -> None:
    lines = "first\n\nsecond\n/clear\nthird\n/what\n/exit\nnever\n"
    answers = [Answer(text="one"), Answer(text="two"), Answer(text="three")]
    with FakeServer(answers=answers) as server:
        result = run("chat", "--system", "be brief", "--server", server.target, stdin=lines)
        asked = [[message.text for message in spec_of(server, n).chat.messages] for n in range(3)]
        assert len(server.calls) == 3
    assert result.exit_code == 0
    assert asked == [["be brief", "first"], ["be brief", "first", "one", "second"], ["be brief", "third"]]
    assert [word for word in ("one\n", "two\n", "three\n") if word in result.stdout] == ["one\n", "two\n", "three\n"]
    assert "no such command" in result.stderr


def test_chat_ends_with_its_input(run: Run) -> None:
    with FakeServer() as server:
        assert run("chat", "--server", server.target, stdin="hi\n").exit_code == 0


def test_chat_goes_on_after_an_error_without_that_turn(run: Run) -> None:
    failure = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", message="full", retry_after_s=1)
    with FakeServer(failures={"StreamGenerate": [failure]}) as server:
        result = run("chat", "--server", server.target, stdin="first\nsecond\n")
        assert [message.text for message in spec_of(server, 1).chat.messages] == ["second"]
    assert result.exit_code == 0
    assert "error: full [RESOURCE_EXHAUSTED OVERLOADED]; try again in 1 s (this turn is not kept)" in result.stderr


def test_chat_shows_thinking_and_keeps_the_answer(run: Run) -> None:
    answers = [Answer(text="one", reasoning="hm"), Answer(reasoning="hm"), Answer(text="three")]
    with FakeServer(answers=answers) as server:
        result = run("chat", "--think", "--server", server.target, stdin="first\nsecond\nthird\n")
        assert [message.text for message in spec_of(server, 2).chat.messages] == ["first", "one", "third"]
        assert spec_of(server, 2).reasoning.enabled
    assert result.stderr.count("hm\n") == 2
    assert "no answer; this turn is not kept" in result.stderr
