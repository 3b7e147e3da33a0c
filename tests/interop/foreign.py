"""Drives a qwire server with clients that are not ours: Node's grpc-js, buf curl, grpcurl.

Each `stream_with_*` takes an address and a prompt, checks that the events keep the contract, and returns the answer.
None of them knows this project's Python: Node reads the checked-in protos, buf and grpcurl ask the server's reflection.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_PROTOS = _HERE.parents[1] / "protos"
_NODE = _HERE / "node"
_METHOD = "qwire.v1.GenerateService/StreamGenerate"
_TIMEOUT_S = 300

Event = dict[str, Any]


class ForeignClientFailed(Exception):
    """A client ended with an error; its text is what the client wrote."""


def stream_with_node(target: str, prompt: str, **stop: int) -> str:
    """Stream an answer with @grpc/grpc-js and @grpc/proto-loader."""
    _install_node_packages()
    command = [find("node"), "stream.js", str(_PROTOS), target, json.dumps(_spec(prompt, stop))]
    return _answer(_events(_run(command, cwd=_NODE)))


def stream_with_buf(target: str, prompt: str, **stop: int) -> str:
    """Stream an answer with `buf curl`, which learns the contract by reflection (v1)."""
    message = json.dumps({"spec": _spec(prompt, stop)})
    return _answer(_events(_run([*_buf_curl(), "--data", message, f"http://{target}/{_METHOD}"])))


def stream_with_grpcurl(target: str, prompt: str, **stop: int) -> str:
    """Stream an answer with `grpcurl`, which learns the contract by reflection (v1alpha)."""
    message = json.dumps({"spec": _spec(prompt, stop)})
    return _answer(_events(_run([find("grpcurl"), "-plaintext", "-d", message, target, _METHOD])))


def services_by_buf(target: str) -> set[str]:
    """List the services that reflection tells `buf curl` of."""
    return set(_run([*_buf_curl(), "--list-services", f"http://{target}"]).split())


def services_by_grpcurl(target: str) -> set[str]:
    """List the services that reflection tells `grpcurl` of."""
    return set(_run([find("grpcurl"), "-plaintext", target, "list"]).split())


def is_there(name: str) -> bool:
    """Whether a program is installed, in this environment or in the system."""
    return _path(name) is not None


def find(name: str) -> str:
    """Return a program's path.

    Raises:
        FileNotFoundError: It is not installed.
    """
    path = _path(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


def _path(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _buf_curl() -> list[str]:
    return [find("buf"), "curl", "--http2-prior-knowledge", "--protocol", "grpc"]


def _install_node_packages() -> None:
    """Install what package.json asks for, once: into node_modules, which git ignores."""
    wanted = json.loads((_NODE / "package.json").read_text())["dependencies"]
    manifests = {name: _NODE / "node_modules" / name / "package.json" for name in wanted}
    if any(not path.exists() or json.loads(path.read_text())["version"] != wanted[n] for n, path in manifests.items()):
        _run([find("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=_NODE)


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=cwd)
    if done.returncode != 0:
        raise ForeignClientFailed(f"{Path(command[0]).name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _spec(prompt: str, stop: dict[str, int]) -> Event:
    options = {"maxOutputTokens": stop["max_output_tokens"]} if stop else {}
    return {"chat": {"messages": [{"role": "ROLE_USER", "text": prompt}]}, "stop": options}


def _events(output: str) -> list[Event]:
    """Read JSON values that stand one after another."""
    decoder, events, rest = json.JSONDecoder(), list[Event](), output.strip()
    while rest:
        event, end = decoder.raw_decode(rest)
        events.append(event)
        rest = rest[end:].lstrip()
    return events


def _answer(events: list[Event]) -> str:
    """Return the text of a stream that keeps its contract: dense sequence, started, deltas, finished."""
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    started, *deltas, finished = events
    assert _field(started["started"], "generation_id")
    assert finished["finished"]["reason"].startswith("FINISH_REASON_")
    output_tokens = int(_field(finished["finished"]["usage"], "output_tokens"))
    assert output_tokens == sum(len(event["delta"].get("tokens", [])) for event in deltas)
    return "".join(event["delta"].get("text", "") for event in deltas)


def _field(message: Event, name: str) -> Any:
    """Return a field, which some clients tell by its name in the protos and others by its name in JSON."""
    first, *others = name.split("_")
    return message[name] if name in message else message[first + "".join(map(str.capitalize, others))]
