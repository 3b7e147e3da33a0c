"""A generation whose replicas are lost: what is recorded of it, and when it is given up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, QueueFull, ReplicasLost
from qwire.engine.fake import FakeEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.serve import fleet, remote
from qwire.serve.config import ReplicaSettings
from qwire.serve.handle import Answers, ReplicaHandle
from qwire.serve.remote import RemoteEngine
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.metrics import Metrics
from qwire.telemetry.propagation import inject
from qwire.telemetry.setup import Telemetry


class FakeReplicas:
    """Gives each attempt the next engine; the last one again once all have had their turn."""

    def __init__(self, engines: Sequence[FakeEngine]) -> None:
        self._engines = list(engines)
        self.attempts = 0
        self.unknown = 2  # the attempt that no replica took
        self.avoided: list[set[str]] = []

    async def stream(self, method: str, *args: Any, **_: object) -> AsyncGenerator[Any, None]:
        """Call it; the model version is not an engine's business, nor which of them was chosen."""
        self.attempts += 1
        if method == "generate":
            self.avoided.append(set(args[-1].lost))
            args[-1].replica = f"replica-{self.attempts}" if self.attempts != self.unknown else ""
        engine = self._engines.pop(0) if len(self._engines) > 1 else self._engines[0]
        async for chunk in getattr(engine, method)(args[0]):
            yield chunk

    async def broadcast(self, method: str, *_: Any, **__: Any) -> Answers:
        """Tell who is there; nobody else comes."""
        assert method == "presence"
        return Answers(["replica-1", "replica-2"], missing=0)


class Gateway:
    """A remote engine, and what was recorded of it."""

    def __init__(self, *engines: FakeEngine, **settings: Any) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = provider.get_tracer("test")
        meter = MeterProvider([self._reader], shutdown_on_exit=False).get_meter("test")
        self.replicas = FakeReplicas(engines)
        self.engine = RemoteEngine(
            cast("ReplicaHandle", self.replicas),
            "v1",
            ReplicaSettings(**settings),
            FailoverRecorder(Telemetry(self.tracer, Metrics(meter)), "tiny"),
        )

    async def tokens(self, request: TokenRequest) -> list[int]:
        """Generate under a span of the server."""
        with self.tracer.start_as_current_span("server") as span:
            self.server = span.get_span_context()
            fields = inject(trace.set_span_in_context(span))
            request = replace(request, envelope=replace(request.envelope, traceparent=fields.traceparent))
            return [token async for chunk in self.engine.generate(request) for token in chunk.token_ids]

    @property
    def attempts(self) -> list[ReadableSpan]:
        """The spans of attempts."""
        return [span for span in self._spans.get_finished_spans() if span.name == "attempt"]

    @property
    def failovers(self) -> dict[Any, int]:
        """Counts by outcome."""
        data = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        points = [point for metric in metrics for point in metric.data.data_points]
        return {dict(point.attributes or {})["qwire.failover.outcome"]: cast("Any", point).value for point in points}


REQUEST = TokenRequest((7, 8, 9), Envelope("id"), StopParams(max_output_tokens=12))


async def drained(stream: AsyncGenerator[object, None]) -> None:
    async for _ in stream:
        pass


def dies_after(tokens: int) -> FakeEngine:
    return FakeEngine(fail_after=tokens, failure=EngineUnavailable(2.0))


async def test_each_attempt_is_a_span_and_each_loss_is_counted():
    gateway = Gateway(dies_after(3), dies_after(5), FakeEngine())
    assert await gateway.tokens(REQUEST) == [7, 8, 9] * 4
    told = [dict(span.attributes or {}) for span in gateway.attempts]
    assert [one["qwire.attempt.number"] for one in told] == [1, 2, 3]
    assert [one["qwire.attempt.resumed_at_tokens"] for one in told] == [0, 3, 5]
    assert [one["gen_ai.usage.output_tokens"] for one in told] == [3, 2, 7]
    assert [one.get("error.type") for one in told] == ["EngineUnavailable", "EngineUnavailable", None]
    assert [one["gen_ai.response.id"] for one in told] == ["id"] * 3
    assert [one.get("qwire.replica.id") for one in told] == ["replica-1", None, "replica-3"]
    assert [span.status.status_code for span in gateway.attempts] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert {span.parent and span.parent.span_id for span in gateway.attempts} == {gateway.server.span_id}
    assert gateway.failovers == {"elsewhere": 2}


async def test_a_replica_that_was_lost_is_not_asked_again_while_there_are_others():
    gateway = Gateway(dies_after(3), dies_after(5), dies_after(1), FakeEngine())
    await gateway.tokens(REQUEST)
    assert gateway.replicas.avoided == [set(), {"replica-1"}, {"replica-1"}, {"replica-1", "replica-3"}]


async def test_nothing_is_told_of_a_generation_that_lost_no_replica():
    gateway = Gateway(FakeEngine())
    assert len(await gateway.tokens(REQUEST)) == 12
    refusing = Gateway(FakeEngine(fail_after=0, failure=QueueFull(1.0)))
    with pytest.raises(QueueFull):
        await refusing.tokens(REQUEST)
    assert gateway.attempts == refusing.attempts == []
    assert gateway.failovers == refusing.failovers == {}


async def test_a_caller_that_leaves_ends_the_last_attempt_without_an_error():
    gateway = Gateway(dies_after(3), FakeEngine())
    stream = gateway.engine.generate(replace(REQUEST, envelope=Envelope("id", traceparent=f"00-{1:032x}-{2:016x}-01")))
    for _ in range(5):
        await anext(stream)
    await stream.aclose()
    last = gateway.attempts[-1]
    assert dict(last.attributes or {})["error.type"] == "GeneratorExit"
    assert last.status.status_code is StatusCode.UNSET


async def test_attempts_without_a_token_are_bounded():
    gateway = Gateway(dies_after(3), failover_attempts=2)
    with pytest.raises(EngineUnavailable) as lost:
        await gateway.tokens(REQUEST)
    assert lost.value.retry_after_s == 2.0
    assert gateway.replicas.attempts == 3
    assert gateway.failovers == {"elsewhere": 2, "given_up": 1}


async def test_a_generation_that_loses_each_replica_does_not_go_through_all_of_them():
    gateway = Gateway(*map(dies_after, range(1, 9)), failover_losses=2)
    gateway.replicas.unknown = 0
    with pytest.raises(ReplicasLost):
        await gateway.tokens(REQUEST)
    assert gateway.replicas.attempts == 3
    assert gateway.failovers == {"elsewhere": 2, "given_up": 1}


async def test_what_has_begun_goes_on_where_the_queue_is_full():
    # Its turn comes later than a replica would have to be found.
    full = FakeEngine(max_running=1, max_waiting=0, step_s=0.1)
    gateway = Gateway(dies_after(3), full, failover_timeout_s=0.4)
    gateway.replicas.unknown = 0
    other = full.generate(TokenRequest((1,), Envelope("other"), StopParams(max_output_tokens=8)))
    async with aclosing(other), asyncio.TaskGroup() as group:
        await anext(other)
        group.create_task(drained(other))
        with pytest.raises(QueueFull):
            await anext(full.generate(replace(REQUEST, envelope=Envelope("new"))))
        assert await gateway.tokens(REQUEST) == [7, 8, 9] * 4


async def test_what_serve_has_no_room_for_is_asked_for_again_once_it_has_begun():
    gateway = Gateway(dies_after(3), FakeEngine(fail_after=0, failure=QueueFull(0.01)), FakeEngine())
    assert await gateway.tokens(REQUEST) == [7, 8, 9] * 4


class GrowingReplicas:
    """A replica with one place, and another one that comes later."""

    def __init__(self) -> None:
        self.running = 1
        self.old, self.new = FakeEngine(max_running=1, step_s=0.01), FakeEngine(max_running=1, step_s=0.01)

    async def stream(self, method: str, *args: Any, **_: object) -> AsyncGenerator[Any, None]:
        assert method == "generate"
        request, _version, route = args
        route.replica, engine = ("new", self.new) if "old" in route.lost else ("old", self.old)
        async for chunk in engine.generate(request):
            yield chunk

    async def broadcast(self, method: str, *args: Any, timeout_s: float) -> Answers:
        assert timeout_s > 0
        present = [("old", self.old), ("new", self.new)][: self.running]
        if method == "presence":
            assert args == ("v1",)
            return Answers([name for name, _ in present], missing=0)
        assert method == "cancel"
        request_id, only_waiting = args
        return Answers([await one.cancel(request_id, only_waiting=only_waiting) for _, one in present], missing=0)


async def test_of_those_that_wait_a_share_goes_to_a_new_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_LOOK_S", 0.02)
    monkeypatch.setattr(fleet, "_FRESH_S", 0.01)
    monkeypatch.setattr(remote, "random", random.Random(1))  # noqa: S311 - no secret
    replicas = GrowingReplicas()
    recorder = FailoverRecorder(Telemetry.disabled(), "tiny")
    engine = RemoteEngine(cast("ReplicaHandle", replicas), "v1", ReplicaSettings(), recorder)
    outputs: dict[int, list[int]] = {}

    async def ask(number: int) -> None:
        request = replace(REQUEST, envelope=Envelope(str(number)), stop=StopParams(max_output_tokens=20))
        outputs[number] = [token async for chunk in engine.generate(request) for token in chunk.token_ids]

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask(number))
        await asyncio.sleep(0.1)
        assert not replicas.new.requests  # nobody leaves before there is anywhere to go
        replicas.running = 2
    assert all(output == ([7, 8, 9] * 7)[:20] for output in outputs.values())
    assert 5 <= len(replicas.new.requests) <= 15
    assert len(replicas.old.requests) == 20  # each was there first, and none twice
    assert "0" not in {request.envelope.request_id for request in replicas.new.requests}  # it was being computed
    assert all(request.envelope.admitted for request in replicas.new.requests)


async def test_no_attempt_is_made_beyond_the_deadline():
    gateway = Gateway(dies_after(3))
    soon = replace(REQUEST.envelope, deadline_unix_ns=time.time_ns() + 50_000_000)
    with pytest.raises(DeadlineExceeded):
        await gateway.tokens(replace(REQUEST, envelope=soon))
    assert gateway.replicas.attempts == 1
