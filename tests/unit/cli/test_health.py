"""`qwire health`: a table and an exit code."""

from __future__ import annotations

from itertools import repeat

import grpc
import pytest

from qwire.client import ServingState
from qwire.client.testing import Failure, FakeServer

from .conftest import Run


@pytest.mark.parametrize("state", [state for state in ServingState if state is not ServingState.UNKNOWN])
def test_health_is_a_table_and_an_exit_code(run: Run, state: ServingState) -> None:
    with FakeServer() as server:
        server.set_serving_state(state)
        result = run("health", "--server", server.target)
    assert result.exit_code == (0 if state.serves else 1)
    for told in (state.value, "response_time", "0.020 s", "<= 2.000 s"):
        assert told in result.stdout
    assert ("See the server's log." in result.stdout) == (state is not ServingState.READY)


def test_health_probe(run: Run) -> None:
    with FakeServer(models=["a", "b"]) as server:
        result = run("health", "--probe", "--server", server.target)
        assert result.exit_code == 0
        assert "probe: a gave token 151645 after 0.020 s" in result.stdout
        assert len(server.calls_of("ProbeModel")) == 2
    failure = Failure(code=grpc.StatusCode.INTERNAL, reason="NUMERICAL", message="the logits were not finite")
    with FakeServer(failures={"ProbeModel": repeat(failure)}) as server:
        result = run("health", "--probe", "--server", server.target)
    assert result.exit_code == 1
    assert "error: the logits were not finite [INTERNAL NUMERICAL]" in result.stderr
