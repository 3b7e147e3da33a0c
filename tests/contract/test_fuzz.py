"""Random messages and random bytes: refused or answered, never UNKNOWN or INTERNAL, and the server lives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwire.text.processor import TextProcessor
from qwire.v1.batch_pb2 import BatchGenerateRequest, StreamBatchGenerateRequest
from qwire.v1.generate_pb2 import CountTokensRequest, GenerateRequest, StreamGenerateRequest
from qwire.v1.types_pb2 import ROLE_USER, ChatMessage, GenerationSpec, ReasoningOptions, ToolOptions
from tests.contract.edge import Stubs
from tests.contract.failure import Failure, collect
from tests.contract.thinker import Thinker, chat, open_thinker

# Threads of other tests, such as an exporter that tries again, may draw random numbers while an example is made.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    Field.CPPTYPE_UINT32: st.integers(0, 20) | st.integers(0, 2**32 - 1),
    Field.CPPTYPE_UINT64: st.integers(0, 20) | st.integers(0, 2**64 - 1),
    Field.CPPTYPE_FLOAT: st.sampled_from([0.0, 0.5, 1.0]) | st.floats(width=32),
    Field.CPPTYPE_BOOL: st.booleans(),
    Field.CPPTYPE_STRING: st.sampled_from(["a", "tiny", "{}", '{"a": [{"</think>": null}]}']) | st.text(max_size=30),
    Field.CPPTYPE_ENUM: st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1),
}
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}


def type_of(field: Any) -> type[Message]:
    """Return the class of a field's messages."""
    return GetMessageClass(field.message_type)


@st.composite
def messages(draw: st.DrawFn, kind: type[Message]) -> Any:
    """Any message of a type, with some of its fields set to anything."""
    message = kind()
    fields = draw(st.lists(st.sampled_from(list(kind.DESCRIPTOR.fields)), unique_by=lambda one: one.name, max_size=6))
    for field in fields:
        if field.message_type is not None:
            inner = messages(type_of(field))
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(inner, max_size=3)))
            else:
                getattr(message, field.name).CopyFrom(draw(inner))
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(NUMBERS[field.cpp_type], max_size=5)))
        else:
            setattr(message, field.name, draw(NUMBERS[field.cpp_type]))
    return message


async def refused_or_answered(call: Any) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert Failure.of_call(error).code in REFUSALS  # noqa: PT017 - both outcomes are allowed


@FUZZ
@given(spec=messages(GenerationSpec))
async def test_random_specs(spec: GenerationSpec, stubs: Stubs):
    await refused_or_answered(stubs.generate.Generate(GenerateRequest(spec=spec)))
    await refused_or_answered(collect(stubs.generate.StreamGenerate(StreamGenerateRequest(spec=spec))))


@pytest.fixture
async def thinker(processor: TextProcessor) -> AsyncGenerator[Thinker, None]:
    output = '<think>\nhm\n</think>\n\n<tool_call>{"name": "a", "arguments": {}}</tool_call>'
    async with open_thinker(processor, output, after="so") as thinker:
        yield thinker


@FUZZ
@given(
    said=st.lists(messages(ChatMessage), min_size=1, max_size=4),
    tools=messages(ToolOptions),
    reasoning=messages(ReasoningOptions),
)
async def test_random_conversations(
    said: list[ChatMessage], tools: ToolOptions, reasoning: ReasoningOptions, thinker: Thinker
):
    last = ChatMessage(role=ROLE_USER, text="a")
    for conversation in (said, [*said, last], [last]):
        spec = chat(*conversation, tools=tools, reasoning=reasoning)
        await refused_or_answered(thinker.stubs.generate.Generate(GenerateRequest(spec=spec)))


@FUZZ
@given(request=messages(BatchGenerateRequest))
async def test_random_batches(request: BatchGenerateRequest, stubs: Stubs):
    await refused_or_answered(stubs.batch.BatchGenerate(request))
    await refused_or_answered(collect(stubs.batch.StreamBatchGenerate(StreamBatchGenerateRequest(items=request.items))))


@FUZZ
@given(request=messages(CountTokensRequest))
async def test_random_counts(request: CountTokensRequest, stubs: Stubs):
    await refused_or_answered(stubs.generate.CountTokens(request))


@FUZZ
@given(message=st.binary(max_size=200))
async def test_random_bytes(message: bytes, stubs: Stubs):
    for method in ("GenerateService/Generate", "GenerateService/CountTokens", "BatchService/BatchGenerate"):
        await refused_or_answered(stubs.channel.unary_unary(f"/qwire.v1.{method}")(message))
    await refused_or_answered(collect(stubs.channel.unary_stream("/qwire.v1.GenerateService/StreamGenerate")(message)))
