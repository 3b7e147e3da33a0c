"""Every error of the engine, and one that nobody foresaw, as the caller sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

import pytest

from qwire.engine import errors
from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2 as pb
from qwire.v1.health_pb2 import GetServingStateRequest
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import CALM, Stubs, card_of, open_edge, served, until
from tests.contract.failure import collect, failure_of

SECRET = "the prompt's secret"  # noqa: S105 - no password
SPEC = GenerationSpec(text="abc")

TABLE: Mapping[str, tuple[BaseException, str, str, float | None]] = {
    "invalid": (errors.InvalidRequest("stop.max_output_tokens", "bad"), "INVALID_ARGUMENT", "INVALID_FIELD", None),
    "context": (errors.ContextLengthExceeded("tokens", "long"), "INVALID_ARGUMENT", "CONTEXT_LENGTH", None),
    "no adapter": (errors.AdapterNotFound("a"), "NOT_FOUND", "ADAPTER_NOT_FOUND", None),
    "bad adapter": (errors.AdapterUnusable("a", "it is broken"), "FAILED_PRECONDITION", "ADAPTER_UNUSABLE", None),
    "capacity": (errors.CapacityExceeded(9, 5), "RESOURCE_EXHAUSTED", "CAPACITY", None),
    "queue": (errors.QueueFull(2.5), "RESOURCE_EXHAUSTED", "OVERLOADED", 2.5),
    "deadline": (errors.DeadlineExceeded(), "DEADLINE_EXCEEDED", "DEADLINE", None),
    "timeout": (TimeoutError(SECRET), "DEADLINE_EXCEEDED", "DEADLINE", None),
    "cancelled": (errors.GenerationCancelled(), "CANCELLED", "CANCELLED", None),
    "numerical": (errors.NumericalError(), "INTERNAL", "NUMERICAL", None),
    "replicas lost": (errors.ReplicasLost(), "INTERNAL", "REPLICAS_LOST", None),
    "unavailable": (errors.EngineUnavailable(), "UNAVAILABLE", "UNAVAILABLE", 1.0),
    "unavailable for": (errors.EngineUnavailable(0.25), "UNAVAILABLE", "UNAVAILABLE", 0.25),
    "unforeseen": (KeyError(SECRET), "INTERNAL", "INTERNAL", None),
    "unasked": (asyncio.CancelledError(), "UNAVAILABLE", "UNAVAILABLE", 1.0),
    "bare": (errors.EngineError(SECRET), "INTERNAL", "INTERNAL", None),
}


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("after", [0, 3])
async def test_engine_failure(case: str, after: int, processor: TextProcessor):
    error, code, reason, retry_after_s = TABLE[case]
    engine = FakeEngine(card=card_of(processor), fail_after=after, failure=error)
    async with open_edge([await served(processor, engine)]) as edge:
        unary = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        stream = edge.stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC))
        streamed = await failure_of(collect(stream))
    for failure in (unary, streamed):
        assert (failure.code, failure.reason, failure.retry_after_s) == (code, reason, retry_after_s)
        pushback_ms = None if retry_after_s is None else round(retry_after_s * 1000)
        assert failure.pushback_ms == (-1 if code == "CANCELLED" else pushback_ms)
        assert SECRET not in failure.message
        assert failure.metadata["generation_id"] in engine.ended
    if isinstance(error, errors.InvalidRequest):
        assert set(unary.fields) == {f"spec.{error.field}"}


async def test_unforeseen_error_is_logged_with_its_place_but_not_its_text(
    processor: TextProcessor, caplog: pytest.LogCaptureFixture
):
    engine = FakeEngine(card=card_of(processor), fail_after=1, failure=KeyError(SECRET))
    with caplog.at_level(logging.ERROR):
        async with open_edge([await served(processor, engine)]) as edge:
            await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
    told = [record.getMessage() for record in caplog.records if "call_failed" in record.getMessage()]
    assert len(told) == 1
    assert "KeyError" in told[0]
    assert "fake.py" in told[0]
    assert SECRET not in caplog.text


async def test_full_queue_refuses_at_once_and_says_when_to_come_back(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.05, max_running=1, max_waiting=1)
    async with open_edge([await served(processor, engine)], config=CALM) as edge:
        await until(lambda: engine.ended != [])
        long = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=200))
        request = pb.StreamGenerateRequest(spec=long)
        held = [edge.stubs.generate.StreamGenerate(request) for _ in range(2)]
        await asyncio.gather(*(call.read() for call in held))
        await until(lambda: sum(one.stop.max_output_tokens == 200 for one in engine.requests) == 2)
        failure = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert failure.retry_after_s is not None
        assert failure.pushback_ms == round(failure.retry_after_s * 1000)
        for call in held:
            call.cancel()


async def test_unknown_model(stubs: Stubs):
    spec = GenerationSpec(text="abc", model="other")
    failure = await failure_of(stubs.generate.Generate(pb.GenerateRequest(spec=spec)))
    assert (failure.code, failure.reason, failure.metadata["model"]) == ("NOT_FOUND", "MODEL_NOT_FOUND", "other")
    spec.model = "x" * 100_000
    failure = await failure_of(stubs.generate.Generate(pb.GenerateRequest(spec=spec)))
    assert (failure.code, "model" in failure.metadata) == ("NOT_FOUND", False)
    failure = await failure_of(stubs.generate.CountTokens(pb.CountTokensRequest(text="a", model="other")))
    assert failure.reason == "MODEL_NOT_FOUND"


async def test_empty_model_id_is_refused_where_there_are_several(processor: TextProcessor):
    engines = [FakeEngine(card=card_of(processor, name)) for name in ("one", "two")]
    async with open_edge([await served(processor, engine) for engine in engines]) as edge:
        failure = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        spec = GenerationSpec(text="abc", model="two")
        response = await edge.stubs.generate.Generate(pb.GenerateRequest(spec=spec))
        assert response.generation.started.model == "two"


async def test_a_deadline_that_cannot_be_met_is_refused_with_what_was_estimated(processor: TextProcessor):
    refusal = errors.DeadlineUnattainable(estimate_s=20.0, left_s=4.5, retry_after_s=15.5)
    engine = FakeEngine(card=card_of(processor), fail_after=0, failure=refusal)
    async with open_edge([await served(processor, engine)]) as edge:
        failure = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_UNATTAINABLE")
        assert (failure.metadata["estimate_ms"], failure.metadata["remaining_ms"]) == ("20000", "4500")
        assert (failure.retry_after_s, failure.pushback_ms) == (15.5, 15500)
        engine.failure = errors.DeadlineUnattainable(estimate_s=20.0, left_s=4.5, retry_after_s=None)
        failure = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        assert (failure.retry_after_s, failure.pushback_ms) == (None, None)


async def test_a_server_with_all_the_calls_it_may_have_refuses_more_but_tells_of_itself(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.05)
    async with open_edge([await served(processor, engine)], config=replace(CALM, max_open_calls=2)) as edge:
        await until(lambda: engine.ended != [])
        long = pb.StreamGenerateRequest(spec=GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=200)))
        held = [edge.stubs.generate.StreamGenerate(long) for _ in range(2)]
        await until(lambda: edge.server.open_streams == 2)
        asked = len(engine.started)
        refused = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC)))
        assert (refused.code, refused.reason, refused.retry_after_s) == ("RESOURCE_EXHAUSTED", "OVERLOADED", 1.0)
        assert len(engine.started) == asked
        await edge.stubs.health.GetServingState(GetServingStateRequest())
        held[0].cancel()
        await until(lambda: edge.server.open_streams == 1)
        await edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC))
        held[1].cancel()
