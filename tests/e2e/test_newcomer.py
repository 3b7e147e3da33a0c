"""What a newcomer does: start the server with one command, ask the real default model, stop it with Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from qwire.client import (
    ChatMessage,
    Client,
    Delta,
    Finished,
    FinishReason,
    HealthCheckKind,
    InvalidRequest,
    Role,
    ServingState,
    Tool,
    Unavailable,
)
from qwire.models.checkpoint import Checkpoint
from tests.interop import foreign

pytestmark = [pytest.mark.default_model, pytest.mark.cluster, pytest.mark.timeout(900)]

TASK = "Write a Python function that reverses a string"
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Serving:
    """A running `qwire-serve`."""

    process: subprocess.Popen[str]
    target: str
    log: Path

    def wait_until_it_serves(self) -> None:
        """Wait for the line that tells how to call it."""
        deadline = time.monotonic() + 400
        while "In another terminal" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


def start(folder: Path, *arguments: str) -> Serving:
    """Start the command on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [BIN / "qwire-serve", "--port", str(port), *arguments], stdout=output, stderr=output, text=True
        )
    return Serving(process, f"127.0.0.1:{port}", log)


@pytest.fixture(scope="module")
def serving(default_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    """The default model behind Ray, as `make serve` starts it."""
    del default_checkpoint  # only fetched, so that the time it takes does not count as a start
    serving = start(tmp_path_factory.mktemp("e2e"))
    try:
        serving.wait_until_it_serves()
        yield serving
    finally:
        serving.process.terminate()
        serving.process.wait(60)


def qwire(serving: Serving, *arguments: str) -> str:
    """Run the `qwire` command and return what it printed."""
    command = [BIN / "qwire", *arguments, "--server", serving.target]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout


def code_in(answer: str) -> str:
    """Return the first Python block of a Markdown answer."""
    found = re.search(r"```python\n(.*?)```", answer, re.DOTALL)
    assert found, answer
    return found[1]


def test_the_answer_is_code_that_works(serving: Serving) -> None:
    answer = qwire(serving, "generate", TASK, "--temperature", "0", "--max-tokens", "120")
    scope: dict[str, Any] = {}
    exec(code_in(answer), scope)  # noqa: S102 - what the model wrote is what is tested
    functions = [value for name, value in scope.items() if callable(value) and "reverse" in name]
    assert [function("qwire") for function in functions] == ["eriwq"]


def test_it_comes_token_by_token(serving: Serving) -> None:
    with Client(serving.target) as client, client.stream("Count to ten.", max_output_tokens=24) as stream:
        events = list(stream)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) > 5
    assert isinstance(events[-1], Finished)
    assert events[-1].usage.output_tokens == sum(len(delta.tokens) for delta in deltas)


def test_it_calls_tools(serving: Serving) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = Tool("get_weather", "Get the current weather of a city.", schema)
    with Client(serving.target) as client:
        assert client.models()[0].capabilities.tools
        asked = client.generate("What is the weather in Berlin?", tools=[tool], temperature=0, max_output_tokens=60)
        assert asked.finished.reason is FinishReason.TOOL_CALLS
        (call,) = asked.tool_calls
        assert (call.name, call.arguments) == ("get_weather", {"city": "Berlin"})
        turns = [ChatMessage(Role.USER, "How is it?"), asked.message, ChatMessage.result_of(call, "21 degrees, sunny")]
        assert client.generate(turns, temperature=0, max_output_tokens=20).text


def test_a_file_of_prompts_becomes_a_file_of_answers(serving: Serving, tmp_path: Path) -> None:
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    prompts.write_text(
        "\n".join(f'"What is {n} plus {n}? Answer with a number."' for n in range(2, 5)), encoding="utf-8"
    )
    told = qwire(serving, "batch", "run", str(prompts), "-o", str(results), "--temperature", "0", "--max-tokens", "16")
    assert "completed: 3 items: 3 succeeded" in told
    answers = {int(line["id"]): line["text"] for line in map(json.loads, results.read_text().splitlines())}
    assert [str(2 * (number + 1)) in answers[number] for number in (1, 2, 3)] == [True, True, True], answers


def test_health_and_models_tell_the_truth(serving: Serving) -> None:
    with Client(serving.target) as client:
        health = client.health()
        assert health.state is ServingState.READY
        unmeasured = {check.kind for check in health.models[0].checks if check.measured is None}
        assert unmeasured <= {HealthCheckKind.GENERATION_SPEED}  # nothing may have been asked yet
        (model,) = client.models()
        assert model.quantization.source_format == "Q4_K_M"
        assert client.probe().response_time_s > 0
    with grpc.insecure_channel(serving.target) as channel:
        stub: Any = HealthStub(channel)
        for service in ("", "qwire.v1.GenerateService", f"model/{model.id}"):
            assert stub.Check(HealthCheckRequest(service=service)).status == HealthCheckResponse.SERVING
    assert "ready" in qwire(serving, "health")


def test_bad_input_names_the_field_and_kills_nothing(serving: Serving) -> None:
    with Client(serving.target) as client:
        with pytest.raises(InvalidRequest) as caught:
            client.generate("hi", top_p=1.5)
        assert caught.value.violations[0].field == "spec.sampling.top_p"
        with pytest.raises(InvalidRequest):
            client.generate("word " * 40_000)
        assert client.generate("hi", max_output_tokens=1).finished.usage.output_tokens == 1


@pytest.mark.interop
@pytest.mark.parametrize("name", ["node", "buf", "grpcurl"])
def test_clients_that_are_not_ours(serving: Serving, name: str) -> None:
    if not foreign.is_there(name):
        pytest.skip(f"{name} is not installed")
    stream = {
        "node": foreign.stream_with_node,
        "buf": foreign.stream_with_buf,
        "grpcurl": foreign.stream_with_grpcurl,
    }[name]
    assert len(stream(serving.target, "Say hello.", max_output_tokens=8)) > 2


@pytest.mark.parametrize("arguments", [(), ("--no-ray",)], ids=["ray", "no-ray"])
def test_ctrl_c_drains_and_leaves_no_process(
    default_checkpoint: Checkpoint, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    del default_checkpoint
    serving = start(tmp_path, *arguments)
    try:
        serving.wait_until_it_serves()
        family = psutil.Process(serving.process.pid).children(recursive=True)
        with (
            Client(serving.target) as client,
            client.stream("Tell me more.", max_output_tokens=40, ignore_eos=True) as stream,
        ):
            next(iter(stream.text_stream))
            serving.process.send_signal(signal.SIGINT)
            generation = stream.generation()  # the open stream is finished, not cut
        assert generation.finished.usage.output_tokens == 40
        assert serving.process.wait(120) == 0
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, alive
        with Client(serving.target) as late, pytest.raises(Unavailable):
            late.health(timeout_s=5)
    finally:
        serving.process.kill()
