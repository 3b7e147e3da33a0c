"""Every field out of its documented range: the right code, the right reason, the field's path, and a live server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from google.protobuf.descriptor import FieldDescriptor

from qwire.v1 import batch_pb2, generate_pb2, model_pb2, types_pb2
from qwire.v1.types_pb2 import GenerationSpec
from tests.contract.edge import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS, Stubs
from tests.contract.failure import Failure, failure_of

INVALID, UNSUPPORTED, CONTEXT = "INVALID_FIELD", "UNSUPPORTED", "CONTEXT_LENGTH"
VOCABULARY = 259

Change = Callable[[GenerationSpec], object]


def sampling(**fields: float) -> Change:
    return lambda spec: spec.sampling.MergeFrom(types_pb2.SamplingOptions(**fields))  # pyright: ignore[reportArgumentType] - any field


def bias(*biases: tuple[int, float]) -> Change:
    return lambda spec: spec.sampling.logit_bias.extend(
        types_pb2.LogitBias(token_id=token_id, bias=value) for token_id, value in biases
    )


def stop(**fields: object) -> Change:
    return lambda spec: spec.stop.MergeFrom(types_pb2.StopOptions(**fields))  # pyright: ignore[reportArgumentType] - any field


def chat(*messages: types_pb2.ChatMessage) -> Change:
    return lambda spec: spec.chat.MergeFrom(types_pb2.ChatInput(messages=messages))


def say(role: int, text: str = "hi", **fields: object) -> types_pb2.ChatMessage:
    return types_pb2.ChatMessage(role=role, text=text, **fields)  # pyright: ignore[reportArgumentType] - any number


def unset_input(spec: GenerationSpec) -> None:
    spec.ClearField("text")


USER, SYSTEM, ASSISTANT, TOOL = (
    types_pb2.ROLE_USER,
    types_pb2.ROLE_SYSTEM,
    types_pb2.ROLE_ASSISTANT,
    types_pb2.ROLE_TOOL,
)

CASES: Mapping[str, tuple[Change, Mapping[str, str]]] = {
    "no input": (unset_input, {"input": INVALID}),
    "empty text": (lambda spec: setattr(spec, "text", ""), {"text": INVALID}),
    "long text": (lambda spec: setattr(spec, "text", "x" * (CONTEXT_TOKENS + 1)), {"text": CONTEXT}),
    "huge text": (lambda spec: setattr(spec, "text", "x" * 3_000_000), {"text": CONTEXT}),
    "no tokens": (lambda spec: spec.tokens.SetInParent(), {"tokens.ids": INVALID}),
    "token id": (lambda spec: spec.tokens.ids.extend([0, VOCABULARY]), {"tokens.ids[1]": INVALID}),
    "token id max": (lambda spec: spec.tokens.ids.append(2**32 - 1), {"tokens.ids[0]": INVALID}),
    "many tokens": (lambda spec: spec.tokens.ids.extend([0] * (CONTEXT_TOKENS + 1)), {"tokens.ids": CONTEXT}),
    "full context": (lambda spec: spec.tokens.ids.extend([0] * CONTEXT_TOKENS), {"tokens": CONTEXT}),
    "no messages": (lambda spec: spec.chat.SetInParent(), {"chat.messages": INVALID}),
    "too many messages": (chat(*[say(USER)] * (CONTEXT_TOKENS + 1)), {"chat.messages": CONTEXT}),
    "no role": (chat(say(0)), {"chat.messages[0].role": INVALID}),
    "unknown role": (chat(say(77)), {"chat.messages[0].role": INVALID}),
    "late system": (chat(say(USER), say(SYSTEM), say(USER)), {"chat.messages[1].role": INVALID}),
    "assistant last": (chat(say(USER), say(ASSISTANT)), {"chat.messages[1].role": INVALID}),
    "system alone": (chat(say(SYSTEM)), {"chat.messages[0].role": INVALID}),
    "empty message": (chat(say(USER, "")), {"chat.messages[0].text": INVALID}),
    "tool role": (chat(say(USER), say(TOOL)), {"chat.messages[1].role": UNSUPPORTED}),
    "tool calls": (
        chat(say(ASSISTANT, tool_calls=[types_pb2.ToolCall(id="1")]), say(USER)),
        {"chat.messages[0].tool_calls": UNSUPPORTED},
    ),
    "tool call id": (chat(say(USER, tool_call_id="1")), {"chat.messages[0].tool_call_id": UNSUPPORTED}),
    "message reasoning": (
        chat(say(ASSISTANT, reasoning="hm"), say(USER)),
        {"chat.messages[0].reasoning": UNSUPPORTED},
    ),
    "temperature -": (sampling(temperature=-0.1), {"sampling.temperature": INVALID}),
    "temperature +": (sampling(temperature=10.1), {"sampling.temperature": INVALID}),
    "top_p 0": (sampling(top_p=0), {"sampling.top_p": INVALID}),
    "top_p +": (sampling(top_p=1.01), {"sampling.top_p": INVALID}),
    "min_p -": (sampling(min_p=-0.01), {"sampling.min_p": INVALID}),
    "min_p +": (sampling(min_p=1.01), {"sampling.min_p": INVALID}),
    "repetition 0": (sampling(repetition_penalty=0), {"sampling.repetition_penalty": INVALID}),
    "repetition +": (sampling(repetition_penalty=10.1), {"sampling.repetition_penalty": INVALID}),
    "presence -": (sampling(presence_penalty=-2.1), {"sampling.presence_penalty": INVALID}),
    "presence +": (sampling(presence_penalty=2.1), {"sampling.presence_penalty": INVALID}),
    "frequency -": (sampling(frequency_penalty=-2.1), {"sampling.frequency_penalty": INVALID}),
    "frequency +": (sampling(frequency_penalty=2.1), {"sampling.frequency_penalty": INVALID}),
    "bias +": (bias((1, 100.5)), {"sampling.logit_bias[0].bias": INVALID}),
    "bias -": (bias((1, 1), (2, -math.inf)), {"sampling.logit_bias[1].bias": INVALID}),
    "bias nan": (bias((1, math.nan)), {"sampling.logit_bias[0].bias": INVALID}),
    "bias token id": (bias((VOCABULARY, 1)), {"sampling.logit_bias[0].token_id": INVALID}),
    "bias twice": (bias((1, 1), (2, 1), (1, 1)), {"sampling.logit_bias[2].token_id": INVALID}),
    "biases": (
        bias(*((1, 1),) * 301),
        {"sampling.logit_bias": INVALID}
        | {f"sampling.logit_bias[{index}].token_id": INVALID for index in range(1, 16)},
    ),
    "max output 0": (stop(max_output_tokens=0), {"stop.max_output_tokens": INVALID}),
    "max output +": (stop(max_output_tokens=MAX_OUTPUT_TOKENS + 1), {"stop.max_output_tokens": INVALID}),
    "min output": (stop(max_output_tokens=5, min_output_tokens=6), {"stop.min_output_tokens": INVALID}),
    "min output default": (stop(min_output_tokens=17), {"stop.min_output_tokens": INVALID}),
    "stop strings": (stop(stop_strings=["x"] * 17), {"stop.stop_strings": INVALID}),
    "empty stop string": (stop(stop_strings=["x", ""]), {"stop.stop_strings[1]": INVALID}),
    "long stop string": (stop(stop_strings=["x" * 257]), {"stop.stop_strings[0]": INVALID}),
    "stop tokens": (stop(stop_token_ids=[1] * 65), {"stop.stop_token_ids": INVALID}),
    "stop token id": (stop(stop_token_ids=[VOCABULARY]), {"stop.stop_token_ids[0]": INVALID}),
    "constraint": (lambda spec: setattr(spec.constraint, "regex", "a"), {"constraint": UNSUPPORTED}),
    "empty constraint": (lambda spec: spec.constraint.SetInParent(), {"constraint": UNSUPPORTED}),
    "reasoning": (lambda spec: setattr(spec.reasoning, "enabled", False), {"reasoning": UNSUPPORTED}),
    "tools": (lambda spec: spec.tools.tools.add(name="f"), {"tools": UNSUPPORTED}),
    "adapter": (lambda spec: setattr(spec, "adapter", "a"), {"adapter": UNSUPPORTED}),
    "top_logprobs +": (lambda spec: setattr(spec.output, "top_logprobs", 21), {"output.top_logprobs": INVALID}),
    "prompt_logprobs +": (
        lambda spec: setattr(spec.output, "prompt_logprobs", 21),
        {"output.prompt_logprobs": INVALID},
    ),
    "fragments without tools": (
        lambda spec: setattr(spec.output, "tool_call_fragments", True),
        {"output.tool_call_fragments": INVALID},
    ),
    "top_logprobs without tokens": (
        lambda spec: spec.output.MergeFrom(types_pb2.OutputOptions(token_info=False, top_logprobs=0)),
        {"output.top_logprobs": INVALID},
    ),
    "priority": (lambda spec: setattr(spec, "priority", 9), {"priority": INVALID}),
    "resume nothing": (lambda spec: spec.resume.SetInParent(), {"resume.output_token_ids": INVALID}),
    "resume token id": (
        lambda spec: spec.resume.output_token_ids.append(VOCABULARY),
        {"resume.output_token_ids[0]": INVALID},
    ),
    "resume too much": (
        lambda spec: spec.resume.output_token_ids.extend([0] * 17),
        {"resume.output_token_ids": INVALID},
    ),
    "resume sequence": (
        lambda spec: spec.resume.MergeFrom(types_pb2.ResumePoint(output_token_ids=[0], last_sequence=2**64 - 1)),
        {"resume.last_sequence": INVALID},
    ),
    "resume without seed": (lambda spec: spec.resume.output_token_ids.append(1), {"sampling.seed": INVALID}),
    "several": (
        lambda spec: (sampling(temperature=11, top_p=0)(spec), stop(stop_strings=[""])(spec)),
        {"sampling.temperature": INVALID, "sampling.top_p": INVALID, "stop.stop_strings[0]": INVALID},
    ),
    "mixed": (
        lambda spec: (sampling(min_p=2)(spec), setattr(spec, "adapter", "a")),
        {"sampling.min_p": INVALID, "adapter": UNSUPPORTED},
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_spec_field_out_of_range(case: str, stubs: Stubs):
    change, fields = CASES[case]
    spec = GenerationSpec(text="abc")
    change(spec)
    reasons = set(fields.values())
    expected = Failure(
        code="INVALID_ARGUMENT",
        reason=reasons.pop() if len(reasons) == 1 else INVALID,
        message="",
        metadata={},
        fields={f"spec.{field}": reason for field, reason in fields.items()},
        retry_after_s=None,
    )
    unary = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    stream = await failure_of(stubs.generate.StreamGenerate(generate_pb2.StreamGenerateRequest(spec=spec)).read())
    item = batch_pb2.BatchItem(id="1", spec=spec)
    batch = await stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=[item]))
    for failure in (unary, stream):
        assert (failure.code, failure.reason, failure.fields) == (expected.code, expected.reason, expected.fields)
    alone = Failure.of_status(batch.results[0].error)
    assert {f"items[0].{field}" for field in expected.fields} == set(alone.fields)
    assert (await stubs.generate.Generate(generate_pb2.GenerateRequest(spec=GenerationSpec(text="a")))).generation


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "field",
    [one.name for one in types_pb2.SamplingOptions.DESCRIPTOR.fields if one.cpp_type == FieldDescriptor.CPPTYPE_FLOAT],
)
async def test_no_float_may_be_nan_or_infinite(field: str, value: float, stubs: Stubs):
    spec = GenerationSpec(text="abc")
    setattr(spec.sampling, field, value)
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert (failure.code, failure.fields) == ("INVALID_ARGUMENT", {f"spec.sampling.{field}": INVALID})


async def test_bounds_themselves_are_allowed(stubs: Stubs):
    low = types_pb2.SamplingOptions(
        temperature=0, top_k=0, top_p=1e-6, min_p=0, repetition_penalty=1e-3, presence_penalty=-2, frequency_penalty=-2
    )
    high = types_pb2.SamplingOptions(
        temperature=10,
        top_k=2**32 - 1,
        top_p=1,
        min_p=1,
        repetition_penalty=10,
        presence_penalty=2,
        frequency_penalty=2,
    )
    for options in (low, high):
        options.seed = 2**64 - 1
        ends = types_pb2.StopOptions(stop_strings=["x" * 256] * 16, stop_token_ids=[*range(64)], max_output_tokens=1)
        spec = GenerationSpec(tokens=types_pb2.TokenInput(ids=[VOCABULARY - 1]), sampling=options, stop=ends)
        response = await stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec))
        assert response.generation.started.sampling == options


async def test_context_too_long_for_the_output(stubs: Stubs):
    spec = GenerationSpec(text="x" * 300, stop=types_pb2.StopOptions(max_output_tokens=MAX_OUTPUT_TOKENS))
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", CONTEXT)
    assert failure.fields == {"spec.stop.max_output_tokens": CONTEXT}


async def test_empty_requests_name_what_is_missing(stubs: Stubs):
    for call, field in (
        (stubs.generate.Generate(generate_pb2.GenerateRequest()), "spec"),
        (stubs.generate.StreamGenerate(generate_pb2.StreamGenerateRequest()).read(), "spec"),
        (stubs.generate.CountTokens(generate_pb2.CountTokensRequest()), "input"),
        (stubs.generate.CountTokens(generate_pb2.CountTokensRequest(text="")), "text"),
        (stubs.generate.CancelGeneration(generate_pb2.CancelGenerationRequest()), "generation_id"),
        (stubs.models.GetModel(model_pb2.GetModelRequest()), "model"),
        (stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest()), "items"),
        (stubs.batch.StreamBatchGenerate(batch_pb2.StreamBatchGenerateRequest()).read(), "items"),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason, failure.fields) == ("INVALID_ARGUMENT", INVALID, {field: INVALID})


async def test_many_violations_fit_into_the_trailers(stubs: Stubs):
    spec = GenerationSpec(chat=types_pb2.ChatInput(messages=[types_pb2.ChatMessage()] * CONTEXT_TOKENS))
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert len(failure.fields) == 16
    assert failure.message == f"{2 * CONTEXT_TOKENS} fields are at fault, the first 16 are listed"
