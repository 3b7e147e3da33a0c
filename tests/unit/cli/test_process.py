"""The command as a process: Ctrl-C, pipes, what it loads, and its missing extra."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import IO

import pytest

from qwire.client.testing import Answer, FakeServer
from qwire.v1 import generate_pb2

# A shell that starts tests in the background makes them ignore Ctrl-C, and their children inherit that.
_QWIRE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from qwire.cli.app import main
main()
"""
_SLOW = Answer(text="one two three", delay_s=60)
_HALF = Answer(text="word " * 500, delay_s=0.2)


@contextmanager
def _started(*arguments: str, stdin: int | None = subprocess.DEVNULL) -> Generator[subprocess.Popen[str]]:
    """Run the command; a test that fails leaves no process behind."""
    with subprocess.Popen(
        [sys.executable, "-c", _QWIRE, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _read(stream: IO[str] | None, characters: int) -> str:
    assert stream is not None
    return stream.read(characters)


def _wait_for_call(server: FakeServer, count: int = 1) -> None:
    pause = threading.Event()
    for _ in range(600):
        if len(server.calls_of("StreamGenerate")) >= count:
            return
        pause.wait(0.05)
    raise AssertionError("no call came")


def test_ctrl_c_in_the_answer_cancels_it_on_the_server() -> None:
    with FakeServer(answers=[_HALF]) as server, _started("generate", "hi", "--server", server.target) as process:
        assert _read(process.stdout, 4) == "word"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert server.wait_for_hang_up()


def test_ctrl_c_before_the_first_word_cancels_it_on_the_server() -> None:
    with FakeServer(answers=[_SLOW]) as server, _started("generate", "hi", "--server", server.target) as process:
        _wait_for_call(server)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)  # far less than the answer would take
        assert (process.returncode, output) == (130, "")
        assert "Traceback" not in errors
        assert server.wait_for_hang_up()


def test_ctrl_c_in_chat_cancels_the_answer_and_goes_on() -> None:
    with (
        FakeServer(answers=[_SLOW, Answer(text="fine")]) as server,
        _started("chat", "--server", server.target, stdin=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        process.stdin.write("first\n")
        process.stdin.flush()
        _wait_for_call(server)
        process.send_signal(signal.SIGINT)
        assert server.wait_for_hang_up()
        output, errors = process.communicate("second\n", timeout=60)
        second = server.calls_of("StreamGenerate")[1].request
    assert process.returncode == 0
    assert "fine" in output
    assert "(cancelled; this turn is not kept)" in errors
    assert "Traceback" not in errors
    assert isinstance(second, generate_pb2.StreamGenerateRequest)
    assert [message.text for message in second.spec.chat.messages] == ["second"]


def test_ctrl_c_in_a_watch() -> None:
    with FakeServer() as server, _started("health", "--watch", "--server", server.target) as process:
        while not server.calls_of("WatchServingState"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_reader_that_goes_away_ends_the_answer() -> None:
    with FakeServer(answers=[_HALF]) as server, _started("generate", "hi", "--server", server.target) as process:
        assert process.stdout is not None
        assert _read(process.stdout, 4) == "word"
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        assert server.wait_for_hang_up()


def _run(script: str, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_help_does_not_wait_for_grpc() -> None:
    script = """
import sys
from qwire.cli.app import main
try:
    main()
finally:
    print(sorted({"grpc", "google.protobuf", "qwire.client", "ray", "torch"} & set(sys.modules)), file=sys.stderr)
"""
    done = _run(script, ["--help"])
    assert done.returncode == 0
    assert "generate" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_which_one(missing: str) -> None:
    done = _run(f"import sys; sys.modules[{missing!r}] = None; from qwire.cli.app import main; main()", ["--help"])
    assert done.returncode == 1
    assert done.stderr == f"qwire: {missing} not installed; the command line needs: pip install 'qwire[cli]'\n"
