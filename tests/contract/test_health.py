"""HealthService: states, checks, probes, and what moves them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from qwire.engine.errors import NumericalError
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import EngineStats
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2
from qwire.v1 import health_pb2 as pb
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.contract.edge import CONFIG, Edge, card_of, open_edge, served, until
from tests.contract.failure import failure_of

STARTING, READY, DEGRADED, DRAINING, NOT_READY = (
    pb.SERVING_STATE_STARTING,
    pb.SERVING_STATE_READY,
    pb.SERVING_STATE_DEGRADED,
    pb.SERVING_STATE_DRAINING,
    pb.SERVING_STATE_NOT_READY,
)
SPEED, MEMORY, QUEUE, WEIGHTS, RESPONSE = (
    pb.HEALTH_CHECK_KIND_GENERATION_SPEED,
    pb.HEALTH_CHECK_KIND_MEMORY,
    pb.HEALTH_CHECK_KIND_QUEUE,
    pb.HEALTH_CHECK_KIND_WEIGHTS_FINITE,
    pb.HEALTH_CHECK_KIND_RESPONSE_TIME,
)


def check_of(status: pb.ServingStatus, kind: int) -> pb.HealthCheck:
    return next(check for check in status.models[0].checks if check.kind == kind)


async def state_of(edge: Edge, model: str = "") -> pb.ServingStatus:
    return (await edge.stubs.health.GetServingState(pb.GetServingStateRequest(model=model))).status


async def test_starting_before_any_model_and_calls_are_told_when_to_come_back():
    async with open_edge(expected=["tiny"]) as edge:
        status = await state_of(edge)
        assert (status.state, status.models[0].state) == (STARTING, STARTING)
        assert not status.models[0].HasField("last_token_time")
        assert {check.state for check in status.models[0].checks} == {STARTING}
        spec = GenerationSpec(text="abc")
        failure = await failure_of(edge.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "UNAVAILABLE")
        assert failure.retry_after_s is not None
        assert failure.pushback_ms is not None


async def test_starting_with_nothing_expected_yet():
    async with open_edge() as edge:
        assert (await state_of(edge)).state == STARTING
        spec = GenerationSpec(text="abc")
        failure = await failure_of(edge.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
        assert failure.code == "UNAVAILABLE"


async def test_ready_only_after_a_real_token(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), fail_after=0)
    async with open_edge([await served(processor, engine)]) as edge:
        await until(lambda: len(engine.ended) >= 3)
        assert (await state_of(edge)).state == STARTING
        engine.fail_after = None
        status = await edge.wait_state(READY)
        assert status.models[0].HasField("last_token_time")
        assert engine.requests[-1].stop.max_output_tokens == 1
        assert engine.requests[-1].sampling.temperature == 0


async def test_a_slow_start_is_waited_for(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.3)
    config = replace(CONFIG, health=replace(CONFIG.health, probe_timeout_s=0.1))
    async with open_edge([await served(processor, engine)], config=config) as edge:
        await until(lambda: len(engine.ended) >= 2)
        assert (await state_of(edge)).state == STARTING


async def test_all_checks_are_told_with_thresholds(edge: Edge, engine: FakeEngine):
    engine.decode_tokens_per_s = 12.0
    await edge.wait_state(READY)
    await until(lambda: check_of(edge.server.health.status(), SPEED).HasField("measured"))
    status = await state_of(edge)
    checks = {check.kind: check for check in status.models[0].checks}
    assert set(checks) == {kind for kind in pb.HealthCheckKind.values() if kind}
    assert all(check.state == READY and not check.advice for check in checks.values())
    assert checks[MEMORY].measured == pytest.approx(0.25)
    assert checks[MEMORY].threshold == pytest.approx(CONFIG.health.max_memory_share)
    assert checks[SPEED].measured == pytest.approx(12.0)
    assert checks[RESPONSE].HasField("measured")


async def test_nothing_to_measure_is_no_alarm(edge: Edge):
    status = await edge.wait_state(READY)
    assert check_of(status, SPEED).state == STARTING
    assert not check_of(status, SPEED).HasField("measured")


@pytest.mark.parametrize(
    ("kind", "attribute", "values", "state"),
    [
        (MEMORY, "memory_used_bytes", (1, 4), DEGRADED),
        (SPEED, "decode_tokens_per_s", (50.0, 0.5), DEGRADED),
        (WEIGHTS, "non_finite_weights", (0, 1), NOT_READY),
    ],
)
async def test_beyond_a_threshold_and_back(
    kind: int, attribute: str, values: tuple[float, float], state: pb.ServingState.ValueType, processor: TextProcessor
):
    good, bad = values
    engine = FakeEngine(card=card_of(processor))
    async with open_edge([await served(processor, engine)]) as edge:
        await edge.wait_state(READY)
        setattr(engine, attribute, bad)
        check = check_of(await edge.wait_state(state), kind)
        assert check.state == state
        assert check.measured == pytest.approx(bad / 4 if kind == MEMORY else bad)
        assert check.advice.endswith(".")
        setattr(engine, attribute, good)
        status = await edge.wait_state(READY)
        assert not check_of(status, kind).advice


async def test_full_queue_degrades_but_serves(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.02, max_running=1, max_waiting=1)
    async with open_edge([await served(processor, engine)]) as edge:
        await edge.wait_state(READY)
        spec = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=250))
        request = generate_pb2.StreamGenerateRequest(spec=spec)
        calls = [edge.stubs.generate.StreamGenerate(request) for _ in range(3)]
        status = await edge.wait_state(DEGRADED)
        assert check_of(status, QUEUE).measured == pytest.approx(1.0)
        for call in calls:
            call.cancel()
        await edge.wait_state(READY)


async def test_slow_answers_degrade(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.05)
    config = replace(CONFIG, health=replace(CONFIG.health, max_response_time_s=0.01))
    async with open_edge([await served(processor, engine)], config=config) as edge:
        status = await edge.wait_state(DEGRADED)
        assert check_of(status, RESPONSE).state == DEGRADED


async def test_dead_engine_is_not_ready(edge: Edge, engine: FakeEngine):
    await edge.wait_state(READY)
    await engine.close()
    status = await edge.wait_state(NOT_READY)
    assert check_of(status, RESPONSE).state == NOT_READY
    assert check_of(status, RESPONSE).advice


async def test_engine_that_gives_no_token_any_more_is_not_ready_until_it_does(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor))
    async with open_edge([await served(processor, engine)]) as edge:
        await edge.wait_state(READY)
        engine.fail_after, engine.failure = 0, NumericalError()
        await edge.wait_state(NOT_READY)
        engine.fail_after = None
        await edge.wait_state(READY)


async def test_a_defect_of_an_engine_does_not_end_the_watch(processor: TextProcessor):
    class Broken(FakeEngine):
        broken = True

        async def stats(self) -> EngineStats:
            if self.broken:
                raise ValueError
            return await super().stats()

    engine = Broken(card=card_of(processor))
    async with open_edge([await served(processor, engine)]) as edge:
        await asyncio.sleep(0.1)
        assert (await state_of(edge)).state == STARTING
        engine.broken = False
        await edge.wait_state(READY)


async def test_real_tokens_count_as_probes(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.01)
    config = replace(CONFIG, health=replace(CONFIG.health, probe_interval_s=0.3))
    async with open_edge([await served(processor, engine)], config=config) as edge:
        await edge.wait_state(READY)
        spec = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=250))
        await edge.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec))
        ours = engine.started.index(edge_generation(engine))
        probes_meanwhile = [one for one in engine.started[ours + 1 :] if one.startswith("probe-")]
        assert not probes_meanwhile
        assert (await state_of(edge)).state == READY


def edge_generation(engine: FakeEngine) -> str:
    return next(one for one in engine.started if not one.startswith("probe-"))


async def test_one_dead_model_of_two_degrades_the_whole(processor: TextProcessor):
    engines = [FakeEngine(card=card_of(processor, name)) for name in ("one", "two")]
    async with open_edge([await served(processor, engine) for engine in engines]) as edge:
        await edge.wait_state(READY)
        await engines[1].close()
        status = await edge.wait_state(DEGRADED)
        assert [(model.model, model.state) for model in status.models] == [("one", READY), ("two", NOT_READY)]
        only = await state_of(edge, "two")
        assert [model.model for model in only.models] == ["two"]


async def test_watch_tells_the_present_and_each_change_once(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor))
    async with open_edge(expected=["tiny"]) as edge:
        watch: Any = edge.stubs.health.WatchServingState(pb.WatchServingStateRequest(model="tiny"))
        seen = [await watch.read()]
        edge.registry.add(await served(processor, engine))
        while seen[-1].status.state != READY:
            seen.append(await watch.read())
        await asyncio.sleep(0.5)  # several looks, no change
        engine.memory_used_bytes = 4
        seen.append(await watch.read())
        assert [response.sequence for response in seen] == list(range(1, len(seen) + 1))
        states = [[check.state for check in one.status.models[0].checks] for one in seen]
        assert all(before != after for before, after in pairwise(states))
        assert (seen[0].status.state, seen[-1].status.state) == (STARTING, DEGRADED)
        watch.cancel()


async def test_state_of_an_unknown_model(edge: Edge):
    failure = await failure_of(edge.stubs.health.GetServingState(pb.GetServingStateRequest(model="other")))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    watch = edge.stubs.health.WatchServingState(pb.WatchServingStateRequest(model="other"))
    assert (await failure_of(watch.read())).code == "NOT_FOUND"


class Sleeper(FakeEngine):
    """An engine whose last replica can go."""

    asleep = False

    async def stats(self) -> EngineStats:
        stats = await super().stats()
        return replace(stats, replicas=0) if self.asleep else stats


async def test_a_model_that_sleeps_serves_and_is_not_woken_by_probes(processor: TextProcessor):
    engine = Sleeper(card=card_of(processor))
    async with open_edge([await served(processor, engine)]) as edge:
        await edge.wait_state(READY)
        engine.asleep = True
        before = (await state_of(edge)).observed_time.ToNanoseconds()
        asked = len(engine.started)
        await asyncio.sleep(3 * CONFIG.health.probe_interval_s)
        status = await state_of(edge)
        assert status.observed_time.ToNanoseconds() > before
        assert status.state == READY
        assert len(engine.started) - asked <= 1  # one may have been on its way
