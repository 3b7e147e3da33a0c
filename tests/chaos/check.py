"""Checks that a correct service passes: each of them is given a way to break it, and breaks it in the middle or not.

They use what the other suites use: the server of the contract tests, its fake engine, the relay, the real client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from qwire.client import (
    AsyncClient,
    Cancelled,
    ClientOptions,
    DeadlineExceeded,
    Generation,
    GenerationOptions,
    Overloaded,
    QwireError,
    ResumeOptions,
)
from qwire.engine.cache import KVCacheManager
from qwire.engine.fake import FakeEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.rpc.registry import ServedModel
from qwire.serve.config import ReplicaSettings
from qwire.serve.remote import RemoteEngine
from qwire.telemetry.failover import FailoverRecorder
from qwire.telemetry.setup import Telemetry
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.read_ahead import BufferBudget, ReadAhead
from qwire.v1 import health_pb2
from tests.chaos.oracle import compare
from tests.contract.edge import CALM, CONFIG, Edge, card_of, open_edge, served, until
from tests.support.http2_relay import http2_relay, reset
from tests.unit.serve.test_failover import MortalReplicas

Bug = AbstractContextManager[Any]
Check = Callable[[TextProcessor, Bug], Awaitable[None]]

_ONCE = ClientOptions(retry=None, resume=None)
_RESUMING = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.02))
_PROMPT = "the quick brown fox jumps"
_OUTPUT: GenerationOptions = {"max_output_tokens": 40, "ignore_eos": True}
_LONG: GenerationOptions = {"max_output_tokens": 200, "ignore_eos": True}


@asynccontextmanager
async def _clients(edge: Edge, options: ClientOptions = _ONCE) -> AsyncGenerator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{edge.port}", options) as client:
        yield client


def _same(generation: Generation, undisturbed: Generation) -> None:
    verdict = compare(generation, undisturbed)
    assert verdict.is_equal, f"{verdict.lost_tokens} lost, {verdict.repeated_tokens} repeated; {verdict.complaint}"


async def stream_is_whole(processor: TextProcessor, bug: Bug) -> None:
    """Oracle: a stream on a quiet server."""
    engine = FakeEngine(card=card_of(processor), step_s=0.001)
    async with (
        open_edge([await served(processor, engine)]) as edge,
        _clients(edge) as client,
    ):
        undisturbed = await client.stream(_PROMPT, **_OUTPUT).generation()
        with bug:
            _same(await client.stream(_PROMPT, **_OUTPUT).generation(), undisturbed)


async def stream_survives_its_replicas(processor: TextProcessor, bug: Bug) -> None:
    """Oracle: a stream whose replicas die twice."""

    async def generation(*deaths: int) -> Generation:
        recorder = FailoverRecorder(Telemetry.disabled(), "tiny")
        replicas = cast("Any", MortalReplicas(*deaths))
        remote = RemoteEngine(replicas, "v1", ReplicaSettings(failover_timeout_s=30.0), recorder)
        card = card_of(processor)
        model = ServedModel(card, Generator(processor, remote, card), FakeEngine(card=card))
        async with open_edge([model]) as edge, _clients(edge) as client:
            return await client.stream(_PROMPT, **_OUTPUT).generation()

    undisturbed = await generation()
    with bug:
        _same(await generation(7, 11), undisturbed)


async def stream_survives_its_connection(processor: TextProcessor, bug: Bug) -> None:
    """Oracle: a stream whose connection is reset."""
    engine = FakeEngine(card=card_of(processor), step_s=0.005)
    async with open_edge([await served(processor, engine)]) as edge:
        with http2_relay(f"127.0.0.1:{edge.port}", reset) as relay:
            async with AsyncClient(relay.target, _RESUMING) as client:
                undisturbed = await client.stream(_PROMPT, **_LONG).generation()
                with bug:
                    stream = client.stream(_PROMPT, **_LONG)
                    for _ in range(10):
                        await anext(stream)
                    relay.cut()
                    generation = await stream.generation()
                    assert stream.generation_id != generation.started.generation_id, "nothing was cut"
                    _same(generation, undisturbed)


async def cancelled_by_id(processor: TextProcessor, bug: Bug) -> None:
    """Contract: a generation that is cancelled by its id ends with CANCELLED, and not otherwise."""
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    async with open_edge([await served(processor, engine)], config=CALM) as edge, _clients(edge) as client:
        with bug:
            stream = client.stream(_PROMPT, **_LONG)
            await anext(stream)
            await client.cancel(stream.generation_id)
            await _fails(stream.generation(), Cancelled)


async def ends_at_the_deadline(processor: TextProcessor, bug: Bug) -> None:
    """Contract: a generation beyond the server's own deadline ends with DEADLINE_EXCEEDED."""
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    config = replace(CALM, default_deadline_s=0.1, max_deadline_s=0.1)
    async with open_edge([await served(processor, engine)], config=config) as edge, _clients(edge) as client:
        with bug:
            await _fails(client.generate(_PROMPT, max_output_tokens=100, ignore_eos=True), DeadlineExceeded)


async def full_queue_is_told(processor: TextProcessor, bug: Bug) -> None:
    """Contract: beyond the queue's bound a call is refused as overload, with a time to come back."""
    engine = FakeEngine(card=card_of(processor), step_s=0.01, max_running=1, max_waiting=0)
    async with open_edge([await served(processor, engine)], config=CALM) as edge, _clients(edge) as client:
        await until(lambda: engine.ended != [])
        with bug:
            async with client.stream(_PROMPT, **_LONG) as stream:
                await anext(stream)
                refusal = await _fails(client.generate(_PROMPT, **_OUTPUT), Overloaded)
                assert refusal.retry_after_s is not None


async def ready_only_after_a_token(processor: TextProcessor, bug: Bug) -> None:
    """Contract: a model that never gave a token is not READY."""
    engine = FakeEngine(card=card_of(processor), fail_after=0)
    with bug:
        async with open_edge([await served(processor, engine)], config=CONFIG) as edge:
            await until(
                lambda: len(engine.ended) >= 3 or edge.server.health.status().state == health_pb2.SERVING_STATE_READY
            )
            assert edge.server.health.status().state == health_pb2.SERVING_STATE_STARTING, "READY without a token"


async def high_priority_goes_first(processor: TextProcessor, bug: Bug) -> None:
    """Scheduler: of two that wait, the one of higher priority runs first."""
    del processor
    with bug:
        scheduler = Scheduler(KVCacheManager(100, 4), max_running=1, max_step_tokens=8)
        for number, priority in enumerate((0, 0, 1)):
            envelope = Envelope(f"request-{number}", priority=priority)
            request = TokenRequest((1, 2, 3), envelope, StopParams(max_output_tokens=4))
            scheduler.add(Sequence(request, frozenset({0}), number, arrived_unix_ns=10 + number))
        order = [one.request_id for one in scheduler.waiting]
        assert order == ["request-2", "request-1"], f"the order is {order}"


async def buffer_is_bounded(processor: TextProcessor, bug: Bug) -> None:
    """Read-ahead: whoever does not take what is read ahead costs no more than the budget."""
    limit = 2_000
    with bug:
        budget = BufferBudget(limit, limit)
        async with ReadAhead(_endless(processor, 2_000), budget):
            for _ in range(10_000):
                await asyncio.sleep(0)
            assert 0 < budget.used_bytes <= limit, f"{budget.used_bytes} bytes held, {limit} allowed"


async def buffer_is_given_back_once(processor: TextProcessor, bug: Bug) -> None:
    """Read-ahead: when a stream has ended, what it held is settled, and no more than that."""
    with bug:
        budget = BufferBudget(2_000, 2_000)
        async with ReadAhead(_endless(processor, 100), budget) as ahead:
            while await ahead.next() is not None:
                pass
        assert budget.used_bytes == 0, f"{budget.used_bytes} bytes held by nobody"


def _endless(processor: TextProcessor, tokens: int) -> Any:
    card = replace(card_of(processor), context_tokens=10_000, max_output_tokens=9_000)
    stop = StopParams(max_output_tokens=tokens, ignore_eos=True)
    return FakeEngine(card=card).generate(TokenRequest((1, 2, 3), Envelope("endless"), stop))


async def _fails(call: Awaitable[object], kind: type[QwireError]) -> QwireError:
    (error,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(error, kind), f"{type(error).__name__} instead of {kind.__name__}"
    return error
