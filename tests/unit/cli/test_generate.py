"""`qwire generate`, in process, against a fake server."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from qwire.client.testing import Answer, Failure, FakeServer
from qwire.v1 import types_pb2

from .conftest import Run, spec_of


def test_generate_writes_the_answer_and_nothing_else(run: Run) -> None:
    with FakeServer(reply="one two") as server:
        result = run("generate", "hi", "--server", server.target)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one two\n", "")


def test_generate_ends_with_one_newline(run: Run) -> None:
    with FakeServer(reply="one\n") as server:
        assert run("generate", "hi", "--server", server.target).stdout == "one\n"


def test_every_option_reaches_the_request(run: Run) -> None:
    options = "--model m --adapter a --system s --max-tokens 9 --temperature 0 --top-p 0.5 --top-k 3 --seed 7"
    options += " --stop a --stop b"
    with FakeServer(models=["m"]) as server:
        result = run("generate", "hi", *options.split(), "--timeout", "50", "--server", server.target)
        spec, remaining_s = spec_of(server), server.calls[0].time_remaining_s
    assert result.exit_code == 0
    assert (spec.model, spec.adapter) == ("m", "a")
    assert [message.text for message in spec.chat.messages] == ["s", "hi"]
    assert spec.sampling.HasField("temperature")
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.top_k, spec.sampling.seed) == (0, 0.5, 3, 7)
    assert (spec.stop.max_output_tokens, list(spec.stop.stop_strings)) == (9, ["a", "b"])
    assert remaining_s is not None
    assert 25 < remaining_s < 52


def test_what_is_left_out_is_left_to_the_model(run: Run) -> None:
    with FakeServer() as server:
        run("generate", "hi", "--server", server.target)
        spec = spec_of(server)
    assert not spec.HasField("sampling")
    assert not spec.HasField("stop")


def test_generate_reads_standard_input(run: Run) -> None:
    with FakeServer() as server:
        result = run("generate", "-", "--server", server.target, stdin="naïve\nquestion")
        assert spec_of(server).chat.messages[0].text == "naïve\nquestion"
        assert result.exit_code == 0
        broken = run("generate", "-", "--server", server.target, stdin=b"\xff")
        assert broken.exit_code == 2
        assert "not UTF-8" in broken.stderr
        assert len(server.calls) == 1


def test_generate_json_is_the_whole_generation(run: Run) -> None:
    with FakeServer(reply="one two") as server:
        result = run("generate", "hi", "--json", "--server", server.target)
    generation = json.loads(result.stdout)
    assert generation["text"] == "one two"
    assert generation["finished"]["reason"] == "end_of_turn"
    assert generation["finished"]["usage"]["output_tokens"] == 3
    assert generation["started"]["sampling"]["temperature"] == 0.7


def test_stats_go_to_standard_error(run: Run) -> None:
    with FakeServer(answers=[Answer(text="one two three", delay_s=0.01)]) as server:
        result = run("generate", "hi", "--stats", "--server", server.target)
    assert result.stdout == "one two three\n"
    for told in ("1 prompt tokens", "4 output tokens", "first text after", "tokens/s", "end_of_turn"):
        assert told in result.stderr


def test_the_server_may_come_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server:
        monkeypatch.setenv("QWIRE_SERVER", server.target)
        assert run("generate", "hi").stdout == "hello\n"


def test_an_error_names_the_field(run: Run) -> None:
    failure = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="INVALID_FIELD",
        message="a field is at fault",
        violations=(("spec.sampling.temperature", "must be in [0, 10], got 11"),),
    )
    with FakeServer(failures={"StreamGenerate": [failure]}) as server:
        result = run("generate", "hi", "--temperature", "11", "--server", server.target)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: spec.sampling.temperature: must be in [0, 10], got 11 [INVALID_ARGUMENT INVALID_FIELD]\n"
    )


def test_an_error_says_when_to_try_again(run: Run) -> None:
    failure = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", message="full", retry_after_s=1.5)
    with FakeServer(failures={"StreamGenerate": [failure]}) as server:
        result = run("generate", "hi", "--server", server.target)
    assert result.stderr == "error: full [RESOURCE_EXHAUSTED OVERLOADED]; try again in 1.5 s\n"


def test_a_broken_answer_is_an_error_on_a_line_of_its_own(run: Run) -> None:
    with FakeServer(answers=[Answer(text="one two", truncate_after=1)]) as server:
        result = run("generate", "hi", "--server", server.target)
    assert (result.exit_code, result.stdout) == (1, "one\n")
    assert result.stderr == "error: the stream ended before it was finished [StreamTruncated]\n"


def test_thinking_goes_to_standard_error(run: Run) -> None:
    with FakeServer(answers=[Answer(text="one two", reasoning="let me see")]) as server:
        result = run("generate", "hi", "--think", "--server", server.target)
        assert spec_of(server).reasoning.enabled
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one two\n", "let me see\n\n")


def test_the_prompt_goes_to_standard_error(run: Run) -> None:
    with FakeServer(answers=[Answer(text="one two")]) as server:
        result = run("generate", "hi there", "--echo", "--server", server.target)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one two\n", "hi there\n\n")


def test_thinking_alone_ends_its_line(run: Run) -> None:
    with FakeServer(answers=[Answer(reasoning="let me see")]) as server:
        result = run("generate", "hi", "--no-think", "--server", server.target)
        spec = spec_of(server)
        assert spec.reasoning.HasField("enabled")
        assert not spec.reasoning.enabled
    assert (result.stdout, result.stderr) == ("", "let me see\n")


def test_constraints_reach_the_request(run: Run, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "null"}', encoding="utf-8")
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff")
    with FakeServer() as server:
        for options, expected in (
            (["--json-schema", str(schema)], types_pb2.OutputConstraint(json_schema='{"type": "null"}')),
            (["--regex", "a+"], types_pb2.OutputConstraint(regex="a+")),
            (
                ["--choice", "A", "--choice", "B b"],
                types_pb2.OutputConstraint(choice=types_pb2.ChoiceConstraint(choices=["A", "B b"])),
            ),
        ):
            position = len(server.calls_of("StreamGenerate"))
            assert run("generate", "hi", *options, "--server", server.target).exit_code == 0
            assert spec_of(server, position).constraint == expected
        calls = len(server.calls)
        assert run("generate", "hi", "--json-schema", str(broken), "--server", server.target).exit_code == 2
        assert run("generate", "hi", "--json-schema", "nowhere", "--server", server.target).exit_code == 2
        assert run("generate", "hi", "--regex", "a", "--choice", "b", "--server", server.target).exit_code == 1
        assert len(server.calls) == calls
