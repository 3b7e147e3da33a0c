"""Wrong usage, missing servers and help, for all commands."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from qwire.cli.commands import COMMANDS
from qwire.client.testing import FakeServer

from .conftest import Run


@pytest.mark.parametrize("arguments", [("generate", "hi"), ("models",), ("health",), ("health", "--watch")])
def test_a_server_that_is_not_there_is_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    with FakeServer() as server:
        target = server.target
    result = run(*arguments, "--server", target)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: cannot reach a server at {target}: ")
    assert result.stderr.count("\n") == 1
    assert "[UNAVAILABLE]" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate",),
        ("generate", "hi", "--temperature", "hot"),
        ("generate", "hi", "--timeout", "0"),
        ("generate", "hi", "--timeout", "nan"),
        ("generate", "hi", "--tls-ca", "/does/not/exist"),
        ("generate", "hi", "--bogus"),
        ("models", "extra"),
        ("models", "--server", ""),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_2(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_certificate_needs_its_key(run: Run, tmp_path: Path) -> None:
    pem = tmp_path / "some.pem"
    pem.write_text("not read")
    result = run("models", "--tls-cert", str(pem))
    assert result.exit_code == 2
    assert "given together" in result.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_listed_help_is_the_help_of_the_command(run: Run, name: str) -> None:
    command = getattr(import_module(f"qwire.cli.{name}"), name)
    assert command.__doc__.splitlines()[0] == COMMANDS[name]
    assert COMMANDS[name] in run("--help").stdout
    assert run(name, "--help").exit_code == 0
