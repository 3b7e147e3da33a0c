"""Runs commands in process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from qwire.cli.commands import app
from qwire.client.testing import FakeServer
from qwire.v1 import generate_pb2, types_pb2

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("QWIRE_SERVER", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin)

    return call


def spec_of(server: FakeServer, position: int = 0) -> types_pb2.GenerationSpec:
    """Return what was asked of a server in its n-th stream."""
    request = server.calls_of("StreamGenerate")[position].request
    assert isinstance(request, generate_pb2.StreamGenerateRequest)
    return request.spec
