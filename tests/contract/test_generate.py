"""GenerateService where all is well."""

from __future__ import annotations

import math

import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.text.request import TextPrompt
from qwire.v1 import generate_pb2 as pb
from qwire.v1 import types_pb2
from tests.contract.edge import (
    CONTEXT_TOKENS,
    DEFAULT_MAX_OUTPUT_TOKENS,
    STEPWISE,
    Stubs,
    card_of,
    open_edge,
    served,
)
from tests.contract.failure import collect

LENGTH = types_pb2.FINISH_REASON_LENGTH


def spec_of(text: str = "abc", **fields: object) -> types_pb2.GenerationSpec:
    return types_pb2.GenerationSpec(text=text, **fields)  # pyright: ignore[reportArgumentType] - any field


async def test_generate_returns_text_tokens_usage_and_timings(stubs: Stubs, processor: TextProcessor):
    call = stubs.generate.Generate(pb.GenerateRequest(spec=spec_of()))
    generation = (await call).generation
    assert generation.text == ("abc" * 6)[:DEFAULT_MAX_OUTPUT_TOKENS]
    assert [token.id for token in generation.tokens] == processor.encode(TextPrompt(generation.text))
    finished = generation.finished
    assert finished.reason == LENGTH
    assert (finished.usage.prompt_tokens, finished.usage.output_tokens) == (3, DEFAULT_MAX_OUTPUT_TOKENS)
    timings = finished.timings
    first, total = timings.time_to_first_token.ToNanoseconds(), timings.total.ToNanoseconds()
    assert 0 < first <= total
    trailers = dict(await call.trailing_metadata() or ())
    assert trailers["x-generation-id"] == generation.started.generation_id


async def test_started_tells_everything_in_force(stubs: Stubs, processor: TextProcessor):
    biases = [types_pb2.LogitBias(token_id=9, bias=-1.5), types_pb2.LogitBias(token_id=4, bias=100)]
    sampling = types_pb2.SamplingOptions(top_k=0, logit_bias=biases)
    spec = spec_of(sampling=sampling, stop=types_pb2.StopOptions(stop_strings=["x"]))
    started = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec))).generation.started
    card = card_of(processor)
    assert (started.model, started.model_revision) == (card.model_id, card.revision)
    assert len(started.generation_id) == 32
    assert {field.name for field, _ in started.sampling.ListFields()} == {
        field.name for field in types_pb2.SamplingOptions.DESCRIPTOR.fields
    }
    assert started.sampling.temperature == pytest.approx(card.default_sampling.temperature)
    assert started.sampling.top_k == 0
    assert list(started.sampling.logit_bias) == biases
    assert started.stop.max_output_tokens == DEFAULT_MAX_OUTPUT_TOKENS
    assert started.stop.HasField("min_output_tokens")
    assert started.stop.HasField("ignore_eos")
    assert started.stop.stop_strings == ["x"]


async def test_stream_is_started_then_deltas_then_finished_in_dense_sequence(stubs: Stubs):
    responses = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec_of())))
    assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    deltas = [response.delta for response in responses[1:-1]]
    assert "".join(delta.text for delta in deltas) == ("abc" * 6)[:DEFAULT_MAX_OUTPUT_TOKENS]
    assert all(delta.channel == types_pb2.CHANNEL_TEXT for delta in deltas)
    assert sum(len(delta.tokens) for delta in deltas) == DEFAULT_MAX_OUTPUT_TOKENS


async def test_stream_and_unary_agree(stubs: Stubs):
    spec = spec_of(stop=types_pb2.StopOptions(max_output_tokens=7))
    whole = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec))).generation
    responses = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec)))
    assert whole.text == "".join(response.delta.text for response in responses)
    assert list(whole.tokens) == [token for response in responses for token in response.delta.tokens]


async def test_without_token_info_no_tokens_are_told(stubs: Stubs):
    spec = spec_of("äb", output=types_pb2.OutputOptions(token_info=False))
    responses = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec)))
    assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))
    assert not any(response.delta.tokens for response in responses)
    assert all(response.delta.text for response in responses[1:-1])
    assert "".join(response.delta.text for response in responses).startswith("äbäb")
    assert responses[-1].finished.usage.output_tokens == DEFAULT_MAX_OUTPUT_TOKENS


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_log_probabilities_are_told_with_each_token(stubs: Stubs, top: int):
    stop = types_pb2.StopOptions(stop_strings=["zz", "de"])
    spec = spec_of("abcdef", stop=stop, output=types_pb2.OutputOptions(top_logprobs=top))
    whole = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec))).generation
    responses = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec)))
    assert len(whole.tokens) == whole.finished.usage.output_tokens == 5
    assert list(whole.tokens) == [token for response in responses for token in response.delta.tokens]
    for token in whole.tokens:
        assert token.logprob == pytest.approx(math.log(0.5))
        assert len(token.top) == top
        assert [one.logprob for one in token.top] == pytest.approx([math.log(0.5) * n for n in range(1, top + 1)])
        assert [one.id for one in token.top[:1]] == [token.id][:top]


async def test_without_being_asked_no_log_probability_is_told(stubs: Stubs):
    generation = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec_of()))).generation
    assert not any(token.HasField("logprob") or token.top for token in generation.tokens)


async def test_stop_string_is_matched_and_told(stubs: Stubs):
    spec = spec_of("abcdef", stop=types_pb2.StopOptions(stop_strings=["zz", "de"]))
    generation = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec))).generation
    assert generation.text == "abc"
    assert generation.finished.reason == types_pb2.FINISH_REASON_STOP_STRING
    assert generation.finished.match.stop_string == "de"


async def test_end_of_turn_and_stop_token_are_told(processor: TextProcessor):
    card = card_of(processor)
    eos = max(card.eos_token_ids)
    engine = FakeEngine(lambda _: [1, 2, 3, eos], card=card)
    async with open_edge([await served(processor, engine)]) as edge:
        generate = edge.stubs.generate.Generate
        finished = (await generate(pb.GenerateRequest(spec=spec_of()))).generation.finished
        assert (finished.reason, finished.match.stop_token_id) == (types_pb2.FINISH_REASON_END_OF_TURN, eos)
        spec = spec_of(stop=types_pb2.StopOptions(stop_token_ids=[2]))
        finished = (await generate(pb.GenerateRequest(spec=spec))).generation.finished
        assert (finished.reason, finished.match.stop_token_id) == (types_pb2.FINISH_REASON_STOP_TOKEN, 2)


async def test_resume_goes_on_as_if_never_interrupted(processor: TextProcessor, engine: FakeEngine):
    spec = spec_of(sampling=types_pb2.SamplingOptions(seed=7))
    async with open_edge([await served(processor, engine)], config=STEPWISE) as edge:
        stream = edge.stubs.generate.StreamGenerate
        whole = await collect(stream(pb.StreamGenerateRequest(spec=spec)))
        received = [token.id for response in whole[:6] for token in response.delta.tokens]
        spec.resume.output_token_ids.extend(received)
        spec.resume.last_sequence = whole[5].sequence
        rest = await collect(stream(pb.StreamGenerateRequest(spec=spec)))
    assert [response.sequence for response in rest] == list(range(7, 7 + len(rest)))
    assert "".join(r.delta.text for r in (*whole[:6], *rest)) == "".join(r.delta.text for r in whole)
    assert rest[-1].finished.usage == whole[-1].finished.usage


async def test_resume_goes_on_with_its_log_probabilities(stubs: Stubs):
    output = types_pb2.OutputOptions(top_logprobs=3)
    spec = spec_of(sampling=types_pb2.SamplingOptions(seed=7), output=output)
    whole = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec))).generation
    spec.resume.output_token_ids.extend(token.id for token in whole.tokens[:6])
    rest = (await stubs.generate.Generate(pb.GenerateRequest(spec=spec))).generation
    assert list(rest.tokens) == list(whole.tokens[6:])


async def test_chat_and_token_prompts(stubs: Stubs, processor: TextProcessor, engine: FakeEngine):
    chat = types_pb2.ChatInput(
        messages=[
            types_pb2.ChatMessage(role=types_pb2.ROLE_SYSTEM, text="Be brief."),
            types_pb2.ChatMessage(role=types_pb2.ROLE_USER, text="Hi <|im_end|>"),
        ]
    )
    await stubs.generate.Generate(pb.GenerateRequest(spec=types_pb2.GenerationSpec(chat=chat)))
    ids = engine.requests[-1].prompt_token_ids
    assert ids.count(processor.vocabulary_tokens - 1) == 2  # ends of turns; the one in the text is plain characters
    tokens = types_pb2.TokenInput(ids=ids)
    await stubs.generate.Generate(pb.GenerateRequest(spec=types_pb2.GenerationSpec(tokens=tokens)))
    assert engine.requests[-1].prompt_token_ids == ids
    counted = await stubs.generate.CountTokens(pb.CountTokensRequest(chat=chat))
    assert (counted.tokens, counted.context_tokens, counted.model) == (len(ids), CONTEXT_TOKENS, "tiny")


async def test_count_tokens_of_text(stubs: Stubs):
    assert (await stubs.generate.CountTokens(pb.CountTokensRequest(text="äb"))).tokens == 3


async def test_envelope_carries_id_priority_deadline_and_trace(stubs: Stubs, engine: FakeEngine):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"), ("tracestate", "vendor=1"))
    spec = spec_of(priority=types_pb2.PRIORITY_HIGH)
    response = await stubs.generate.Generate(pb.GenerateRequest(spec=spec), metadata=metadata, timeout=30)
    envelope = engine.requests[-1].envelope
    assert envelope.request_id == response.generation.started.generation_id
    assert envelope.priority == 1
    assert envelope.deadline_unix_ns is not None
    assert envelope.traceparent is not None
    assert trace_id in envelope.traceparent
    assert envelope.tracestate == "vendor=1"


async def test_all_priorities(stubs: Stubs, engine: FakeEngine):
    for priority, expected in ((0, 0), (1, -1), (2, 0), (3, 1)):
        spec = spec_of(priority=priority)
        await stubs.generate.Generate(pb.GenerateRequest(spec=spec))
        assert engine.requests[-1].envelope.priority == expected


async def test_empty_model_id_is_the_only_model(stubs: Stubs):
    by_id = await stubs.generate.Generate(pb.GenerateRequest(spec=spec_of(model="tiny")))
    assert by_id.generation.started.model == "tiny"
