"""The fake server itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import grpc

from qwire.client.health import ServingState
from qwire.client.testing.jobs import FakeJobs
from qwire.client.testing.script import Answer, Failure
from qwire.client.testing.services import FakeBatch, FakeGenerate, FakeHealth, FakeModels
from qwire.client.testing.state import RecordedCall, ServerState
from qwire.v1.batch_job_pb2_grpc import add_BatchJobServiceServicer_to_server
from qwire.v1.batch_pb2_grpc import add_BatchServiceServicer_to_server
from qwire.v1.generate_pb2_grpc import add_GenerateServiceServicer_to_server
from qwire.v1.health_pb2_grpc import add_HealthServiceServicer_to_server
from qwire.v1.model_pb2_grpc import add_ModelServiceServicer_to_server

_THREADS = 32


class FakeServer:
    """A gRPC server on the loopback interface that answers from a script; for blocking and asyncio tests alike.

    Args:
        reply: The text of every generation, streamed word by word.
        answers: Instead of `reply`: what the first, second, ... generation answers; the last one holds from there on.
            Each batch item is a generation, of a job too.
        models: Ids of the models that it pretends to serve.
        adapters: Ids of the adapters that each of them pretends to have; the answers are the same with every adapter.
        failures: By RPC name: the first calls of that RPC fail, one with each; None lets one pass. `itertools.repeat`
            fails all of them.
        port: Where to listen. 0 = any free port.
        credentials: TLS. None = plain text.
    """

    def __init__(
        self,
        reply: str = "hello",
        *,
        answers: Sequence[Answer] = (),
        models: Sequence[str] = ("fake",),
        adapters: Sequence[str] = (),
        failures: Mapping[str, Iterable[Failure | None]] | None = None,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._state = ServerState(answers or [Answer(text=reply)], models, failures or {}, adapters)
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
        add_GenerateServiceServicer_to_server(FakeGenerate(self._state), self._server)
        add_BatchServiceServicer_to_server(FakeBatch(self._state), self._server)
        add_BatchJobServiceServicer_to_server(FakeJobs(self._state), self._server)
        add_ModelServiceServicer_to_server(FakeModels(self._state), self._server)
        add_HealthServiceServicer_to_server(FakeHealth(self._state), self._server)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self._port = self._server.add_insecure_port(address)
        else:
            self._port = self._server.add_secure_port(address, credentials)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(grace=0).wait()

    @property
    def target(self) -> str:
        """What a client connects to."""
        return f"127.0.0.1:{self._port}"

    @property
    def calls(self) -> Sequence[RecordedCall]:
        """Every call that has arrived, in order."""
        return tuple(self._state.calls)

    def calls_of(self, method: str) -> Sequence[RecordedCall]:
        """Every call of one RPC, in order."""
        return tuple(call for call in self.calls if call.method == method)

    def wait_for_hang_up(self, timeout_s: float = 10.0) -> bool:
        """Wait until a client has left a running generation; False = none did in time. Counts each once."""
        return self._state.hung_up.acquire(timeout=timeout_s)

    def set_serving_state(self, state: ServingState) -> None:
        """Change what the health service says, and tell the watchers."""
        self._state.set_serving_state(state)
