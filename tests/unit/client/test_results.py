"""What comes back: typed results of every method, the same from both clients."""

from __future__ import annotations

import grpc
import pytest

from qwire.client import (
    AsyncClient,
    BatchItem,
    Channel,
    Client,
    Delta,
    Finished,
    FinishReason,
    GenerationOptions,
    HealthCheckKind,
    ModelNotFound,
    Overloaded,
    PromptRead,
    QuantizationMethod,
    ServingState,
    Started,
    TokenInfo,
)
from qwire.client.started import Sampling
from qwire.client.testing import Answer, Failure, FakeServer
from qwire.v1 import types_pb2

_OVERLOADED = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_s=2.5)


def test_a_generation_is_whole() -> None:
    with (
        FakeServer(answers=[Answer(text="one two", reasoning="let me see")]) as server,
        Client(server.target) as client,
    ):
        generation = client.generate("hi there", temperature=0.7, seed=7)
    assert generation.text == "one two"
    assert generation.reasoning == "let me see"
    assert generation.tokens == tuple(TokenInfo(position) for position in range(5))
    assert generation.finished.reason is FinishReason.END_OF_TURN
    assert generation.finished.stop_token_id is not None
    assert generation.finished.stop_string is None
    assert (generation.usage.prompt_tokens, generation.usage.output_tokens, generation.usage.reasoning_tokens) == (
        2,
        6,
        3,
    )
    assert generation.started.generation_id
    assert generation.started.sampling.seed == 7
    assert generation.started.sampling.temperature == 0.7  # as the caller wrote it, not as 32 bits hold it


def test_a_bias_is_told_as_it_was_given() -> None:
    with FakeServer(answers=[Answer(text="one")]) as server, Client(server.target) as client:
        sampling = client.generate("hi", logit_bias={5: 0.7, 2: -100}).started.sampling
        assert client.generate("hi").started.sampling.logit_bias == ()
    assert sampling.logit_bias == ((5, 0.7), (2, -100.0))


def test_log_probabilities_come_with_each_token_where_asked_for() -> None:
    with FakeServer(answers=[Answer(text="one two")]) as server, Client(server.target) as client:
        tokens = client.generate("hi", top_logprobs=2).tokens
        assert client.generate("hi").tokens == (TokenInfo(0), TokenInfo(1))
    assert [token.logprob for token in tokens] == pytest.approx([-0.693147] * 2)
    assert [one.id for one in tokens[1].top] == [1, 2]
    assert [one.logprob for one in tokens[1].top] == pytest.approx([-0.693147, -1.386294])


async def test_the_prompt_is_told_where_asked_for() -> None:
    options = GenerationOptions(echo=True, prompt_logprobs=2)
    with FakeServer(reply="one") as server:
        with Client(server.target) as client:
            whole = client.generate("hi there", **options)
            assert client.generate("hi there").prompt == PromptRead()
            with client.stream("hi there", **options) as stream:
                events = list(stream)
            batch = client.batch(["hi there"], **options)[0].unwrap()
        async with AsyncClient(server.target) as aio, aio.stream("hi there", **options) as aio_stream:
            aio_prompt = (await aio_stream.generation()).prompt
    assert whole.prompt.text == "hi there"
    first, second = whole.prompt.tokens
    assert first == TokenInfo(0)
    assert second.logprob == pytest.approx(-0.693147)
    assert [one.id for one in second.top] == [1, 2]
    assert [type(event) for event in events] == [Started, PromptRead, Delta, Finished]
    assert events[1] == stream.generation().prompt == batch.prompt == aio_prompt == whole.prompt


def test_a_stream_yields_typed_events_and_adds_up_to_the_same_generation() -> None:
    answer = Answer(text="one two", reasoning="hm")
    with FakeServer(answers=[answer]) as server, Client(server.target) as client:
        with client.stream("hi") as stream:
            assert stream.started is None
            events = list(stream)
        streamed, whole = stream.generation(), client.generate("hi")
    assert [type(event) for event in events] == [Started, Delta, Delta, Delta, Finished]
    assert events[0] is stream.started
    channels = [event.channel for event in events if isinstance(event, Delta)]
    assert channels == [Channel.REASONING, Channel.TEXT, Channel.TEXT]
    assert (streamed.text, streamed.reasoning, streamed.tokens) == (whole.text, whole.reasoning, whole.tokens)
    assert streamed.usage == whole.usage


def test_text_stream_is_the_answer_alone() -> None:
    answer = Answer(text="one two\n", reasoning="hm")
    with FakeServer(answers=[answer]) as server, Client(server.target) as client, client.stream("hi") as stream:
        assert list(stream.text_stream) == ["one", " two\n"]
        assert stream.text == "one two\n"


def test_length_is_a_reason_of_its_own() -> None:
    with FakeServer(reply="a b c") as server, Client(server.target) as client:
        generation = client.generate("hi", max_output_tokens=2)
    assert generation.text == "a b"
    assert generation.finished.reason is FinishReason.LENGTH


def test_batch_keeps_the_order_and_gives_each_item_its_own_fate() -> None:
    answers = [Answer(text="first"), Answer(failure=_OVERLOADED), Answer(text="third")]
    with FakeServer(answers=answers) as server, Client(server.target) as client:
        results = client.batch(["a", BatchItem("b", id="mine", options={"seed": 3}), "c"], temperature=0)
    assert [result.id for result in results] == ["0", "mine", "2"]
    assert results[0].unwrap().text == "first"
    assert results[0].unwrap().started.sampling.temperature == 0
    assert isinstance(results[1].error, Overloaded)
    assert results[1].error.retry_after_s == 2.5
    with pytest.raises(Overloaded):
        results[1].unwrap()
    assert results[2].unwrap().text == "third"


def test_batch_stream_yields_results_then_has_the_total() -> None:
    answers = [Answer(text="first one"), Answer(failure=_OVERLOADED)]
    with FakeServer(answers=answers) as server, Client(server.target) as client:
        with client.stream_batch(["a", "b"]) as stream:
            assert stream.finished is None
            results = list(stream)
        assert [result.error is None for result in results] == [True, False]
        assert stream.finished is not None
        assert (stream.finished.succeeded, stream.finished.failed) == (1, 1)
        assert stream.finished.usage.output_tokens == 3


async def test_the_asyncio_client_gives_the_same() -> None:
    with FakeServer(reply="one two") as server:
        async with AsyncClient(server.target) as client:
            assert (await client.generate("hi")).text == "one two"
            async with client.stream("hi") as stream:
                assert [text async for text in stream.text_stream] == ["one", " two"]
                assert stream.text == "one two"
                assert (await stream.generation()).started == stream.started
            assert [result.unwrap().text for result in await client.batch(["a", "b"])] == ["one two"] * 2
            async with client.stream_batch(["a"]) as batch:
                assert [result.unwrap().text async for result in batch] == ["one two"]
            assert batch.finished is not None
            assert batch.finished.succeeded == 1
            async with client.watch_health() as changes:
                assert (await anext(changes)).state is ServingState.READY
                server.set_serving_state(ServingState.DRAINING)
                assert (await anext(changes)).state is ServingState.DRAINING


def test_models_are_described() -> None:
    with FakeServer(models=["b", "a"]) as server, Client(server.target) as client:
        assert [model.id for model in client.models()] == ["a", "b"]
        model = client.model("a")
        with pytest.raises(ModelNotFound, match="'c' is not served"):
            client.model("c")
    assert model.quantization.method is QuantizationMethod.INT8
    assert model.quantization.source_format == "Q4_K_M"
    assert model.capabilities.chat
    assert not model.capabilities.tools
    assert model.limits.context_tokens == 4096
    assert model.default_sampling.top_p == 0.8
    assert model.default_sampling.seed is None


def test_health_tells_state_checks_and_probe() -> None:
    with FakeServer() as server, Client(server.target) as client:
        ready = client.health()
        server.set_serving_state(ServingState.DEGRADED)
        degraded = client.health("fake")
        probe = client.probe()
    assert ready.state is ServingState.READY
    assert degraded.state.serves
    (check,) = degraded.models[0].checks
    assert check.kind is HealthCheckKind.RESPONSE_TIME
    assert (check.measured, check.threshold) == (0.02, 2.0)
    assert check.advice
    assert degraded.observed_at.tzinfo is not None
    assert probe.response_time_s == 0.02


@pytest.mark.parametrize("state", [ServingState.STARTING, ServingState.DRAINING, ServingState.NOT_READY])
def test_only_ready_and_degraded_serve(state: ServingState) -> None:
    assert not state.serves


def test_a_watch_tells_every_change() -> None:
    with FakeServer() as server, Client(server.target) as client, client.watch_health() as changes:
        assert next(changes).state is ServingState.READY
        server.set_serving_state(ServingState.NOT_READY)
        assert next(changes).state is ServingState.NOT_READY


def test_count_and_cancel() -> None:
    with FakeServer() as server, Client(server.target) as client:
        assert client.count_tokens("one two three").tokens == 3
        assert client.cancel("never-was") is False


@pytest.mark.parametrize("value", [0.7, 0.1, 1.0, 0.0, 1e-7, 3.4e38, 1 / 3])
def test_floats_are_told_as_short_as_their_32_bits_allow(value: float) -> None:
    proto = types_pb2.SamplingOptions(temperature=value)
    told = Sampling.from_proto(proto).temperature
    assert told is not None
    assert types_pb2.SamplingOptions(temperature=told).temperature == proto.temperature
    assert len(repr(told)) <= len(repr(proto.temperature))
