"""What the services of a fake server share: the script, and a record of what was asked."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message

from qwire.client.health import ServingState
from qwire.client.testing.script import Answer, Failure
from qwire.v1 import health_pb2, types_pb2

_NO_DEADLINE_S = 1e9  # gRPC tells of no deadline as one that is ages away


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that reached the server; retries are calls of their own.

    Attributes:
        method: The RPC's name, such as `StreamGenerate`.
        request: Its request.
        metadata: Its metadata.
        time_remaining_s: Seconds to its deadline on arrival; None = it has none.
    """

    method: str
    request: Message
    metadata: dict[str, str | bytes]
    time_remaining_s: float | None


@dataclass(slots=True)
class RunningGeneration:
    """A generation that can be ended by its client or by its id; `done` once the server has nothing more to say."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    ended: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    done: bool = False


class ServerState:
    """Shared by the services of one fake server, whose calls run in threads."""

    def __init__(
        self,
        answers: Sequence[Answer],
        models: Sequence[str],
        failures: Mapping[str, Iterable[Failure | None]],
    ) -> None:
        self.models = tuple(models)
        self.calls: list[RecordedCall] = []
        self.hung_up = threading.Semaphore(0)
        self.serving_state = ServingState.READY
        self.changed = threading.Condition()
        self._lock = threading.Lock()
        self._answers = list(answers)
        self._failures = {method: iter(scripted) for method, scripted in failures.items()}
        self._running: dict[str, RunningGeneration] = {}
        self._given: dict[bytes, Answer] = {}

    def enter(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        """Record a call, and end it here if its method has a failure left."""
        metadata = {key: value for key, value in context.invocation_metadata()}  # noqa: C416 - typed as pairs only by iteration
        remaining_s = context.time_remaining()
        with self._lock:
            self.calls.append(
                RecordedCall(method, request, metadata, remaining_s if remaining_s < _NO_DEADLINE_S else None)
            )
            failure = next(self._failures.get(method, iter(())), None)
        if failure is not None:
            failure.abort(context)

    def answer_to(self, spec: types_pb2.GenerationSpec) -> Answer:
        """Return the next answer, the last one again once all have been given; to a resumed prompt, its last answer."""
        prompt = b"".join(part.SerializeToString() for part in (spec.chat, spec.tokens)) + spec.text.encode()
        with self._lock:
            if not spec.HasField("resume") or prompt not in self._given:
                self._given[prompt] = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            return self._given[prompt]

    def begin(self, context: grpc.ServicerContext) -> RunningGeneration:
        """Register a generation until its call ends."""
        generation = RunningGeneration()
        with self._lock:
            self._running[generation.id] = generation

        def end() -> None:
            with self._lock:
                self._running.pop(generation.id, None)
            generation.ended.set()
            if not generation.done:
                self.hung_up.release()

        if not context.add_callback(end):
            end()
        return generation

    def cancel(self, generation_id: str) -> bool:
        """End a generation by its id."""
        with self._lock:
            generation = self._running.pop(generation_id, None)
        if generation is None:
            return False
        generation.cancelled = generation.done = True
        generation.ended.set()
        return True

    def set_serving_state(self, state: ServingState) -> None:
        """Change the serving state and tell the watchers."""
        with self.changed:
            self.serving_state = state
            self.changed.notify_all()

    def serving_status(self) -> health_pb2.ServingStatus:
        """Return the present state, the same for every model, each with one check."""
        state = health_pb2.ServingState.Value(f"SERVING_STATE_{self.serving_state.name}")
        status = health_pb2.ServingStatus(state=state)
        status.observed_time.GetCurrentTime()
        for model in self.models:
            entry = status.models.add(model=model, state=state)
            entry.checks.add(
                kind=health_pb2.HEALTH_CHECK_KIND_RESPONSE_TIME,
                state=state,
                measured=0.02,
                threshold=2.0,
                advice="" if self.serving_state is ServingState.READY else "See the server's log.",
            )
        return status
