"""Tools from request to answer, over the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from qwire.text.processor import TextProcessor
from qwire.v1 import batch_pb2, generate_pb2, model_pb2, types_pb2
from qwire.v1.types_pb2 import ChatMessage, GenerationSpec, ToolCall, ToolDefinition
from tests.contract.failure import failure_of
from tests.contract.test_field_ranges import INVALID
from tests.contract.thinker import chat, open_thinker, tools

USER, SYSTEM, ASSISTANT, TOOL = (
    types_pb2.ROLE_USER,
    types_pb2.ROLE_SYSTEM,
    types_pb2.ROLE_ASSISTANT,
    types_pb2.ROLE_TOOL,
)
ARGUMENTS = '{"city":  "Köln"}'
CALLING = (
    f'I look.\n<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
)
PAST = ToolCall(id="call_1", name="weather", arguments_json=ARGUMENTS)
ASKED = ChatMessage(role=USER, text="How is the weather?")
CALLED = ChatMessage(role=ASSISTANT, tool_calls=[PAST])
RESULT = ChatMessage(role=TOOL, text="sunny", tool_call_id="call_1")


async def test_calls_are_told_whole_and_streamed(processor: TextProcessor):
    async with open_thinker(processor, CALLING) as model:
        whole = await model.whole(chat(ASKED, tools=tools()))
        assert whole.text == "I look."
        assert [(call.name, call.arguments_json) for call in whole.tool_calls] == [
            ("weather", ARGUMENTS),
            ("weather", "{}"),
        ]
        assert whole.finished.reason == types_pb2.FINISH_REASON_TOOL_CALLS
        assert whole.finished.match.stop_token_id == model.processor.vocabulary_tokens - 1
        assert len({call.id for call in whole.tool_calls}) == 2
        responses = await model.stream(chat(ASKED, tools=tools()))
        assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))
        assert [response.tool_call for response in responses if response.HasField("tool_call")] == list(
            whole.tool_calls
        )
        assert "".join(response.delta.text for response in responses) == whole.text
        assert [token for response in responses for token in response.delta.tokens] == list(whole.tokens)
        assert '"description": "Tells the weather."' in model.prompt()


async def test_a_batch_item_may_call(processor: TextProcessor):
    async with open_thinker(processor, CALLING) as model:
        item = batch_pb2.BatchItem(id="1", spec=chat(ASKED, tools=tools()))
        response = await model.stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=[item]))
        assert len(response.results[0].generation.tool_calls) == 2


async def test_what_is_no_call_is_text_and_so_is_all_without_tools(processor: TextProcessor):
    async with open_thinker(processor, '<tool_call>{"name": "weather"}</tool_call>') as model:
        for spec in (chat(tools=tools()), chat()):
            whole = await model.whole(spec)
            assert whole.text == '<tool_call>{"name": "weather"}</tool_call>'
            assert not whole.tool_calls
            assert whole.finished.reason == types_pb2.FINISH_REASON_END_OF_TURN


async def test_a_stream_resumed_at_any_event_loses_no_call(processor: TextProcessor):
    async with open_thinker(processor, CALLING) as model:
        spec = chat(ASKED, tools=tools(), sampling=types_pb2.SamplingOptions(seed=1))
        whole = await model.stream(spec)
        for cut in range(2, len(whole) - 1):
            spec.resume.Clear()
            spec.resume.output_token_ids.extend(token.id for seen in whole[:cut] for token in seen.delta.tokens)
            spec.resume.last_sequence = whole[cut - 1].sequence
            rest = await model.stream(spec)
            calls = [response.tool_call for response in (*whole[:cut], *rest) if response.HasField("tool_call")]
            assert list({call.id: call for call in calls}.values()) == [
                response.tool_call for response in whole if response.HasField("tool_call")
            ]
            text = "".join(response.delta.text for response in (*whole[:cut], *rest))
            assert text == "".join(response.delta.text for response in whole)
            assert rest[-1].finished.reason == types_pb2.FINISH_REASON_TOOL_CALLS


async def test_calls_are_told_of_while_they_are_written(processor: TextProcessor):
    async with open_thinker(processor, CALLING) as model:
        output = types_pb2.OutputOptions(tool_call_fragments=True)
        spec = chat(ASKED, tools=tools(), sampling=types_pb2.SamplingOptions(seed=1), output=output)
        whole = await model.stream(spec)
        calls = [response.tool_call for response in whole if response.HasField("tool_call")]
        told = [one for response in whole for one in response.delta.tool_call_fragments]
        for index, call in enumerate(calls):
            own = [one for one in told if one.index == index]
            assert (own[0].id, own[0].name) == (call.id, call.name)
            assert not any(one.id or one.name or one.retracted for one in own[1:])
            assert "".join(one.arguments_json for one in own) == call.arguments_json
        assert list((await model.whole(spec)).tool_calls) == calls
        for cut in range(2, len(whole) - 1):
            spec.resume.Clear()
            spec.resume.output_token_ids.extend(token.id for seen in whole[:cut] for token in seen.delta.tokens)
            spec.resume.last_sequence = whole[cut - 1].sequence
            rest = await model.stream(spec)
            assert [one for seen in (*whole[:cut], *rest) for one in seen.delta.tool_call_fragments] == told


async def test_without_token_info_calls_are_told_of_all_the_same(processor: TextProcessor):
    async with open_thinker(processor, '<tool_call>{"name": "weather", "arguments": {}} oh') as model:
        output = types_pb2.OutputOptions(tool_call_fragments=True, token_info=False)
        responses = await model.stream(chat(ASKED, tools=tools(), output=output))
        told = [one for response in responses for one in response.delta.tool_call_fragments]
        assert "".join(one.arguments_json for one in told) == "{}"
        assert [one.retracted for one in told] == [False, False, True]
        text = "".join(response.delta.text for response in responses)
        assert text == '<tool_call>{"name": "weather", "arguments": {}} oh'


async def test_results_go_back_to_the_model(processor: TextProcessor):
    async with open_thinker(processor, "Sunny.") as model:
        assert (await model.whole(chat(ASKED, CALLED, RESULT, tools=tools()))).text == "Sunny."
        assert model.prompt().endswith(
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>\nuser\n'
            "<tool_response>\nsunny\n</tool_response>\nassistant\n"
        )


async def test_tools_are_counted(processor: TextProcessor):
    async with open_thinker(processor, "hi") as model:
        spec = chat(ASKED, tools=tools(), reasoning=types_pb2.ReasoningOptions(enabled=False))
        whole = await model.whole(spec)
        request = generate_pb2.CountTokensRequest(chat=spec.chat, tools=spec.tools, reasoning=spec.reasoning)
        counted = await model.stubs.generate.CountTokens(request)
        assert counted.tokens == whole.started.prompt_tokens
        bad = generate_pb2.CountTokensRequest(text="a", tools=spec.tools)
        assert (await failure_of(model.stubs.generate.CountTokens(bad))).fields == {"tools": INVALID}


async def test_the_capability_is_told(processor: TextProcessor):
    async with open_thinker(processor, "hi") as model:
        response = await model.stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))
        assert {field.name for field, _ in response.model.capabilities.ListFields()} == {
            *("chat", "logprobs", "resume", "tools", "reasoning")
        }


def tool(**fields: str) -> Callable[[], GenerationSpec]:
    return lambda: chat(tools=tools(ToolDefinition(**{"name": "f", **fields})))


def past(*calls: ToolCall, role: int = ASSISTANT, text: str = "") -> Callable[[], GenerationSpec]:
    return lambda: chat(ASKED, ChatMessage(role=role, text=text, tool_calls=calls), ASKED)  # pyright: ignore[reportArgumentType] - any number


def called(**fields: str) -> Callable[[], GenerationSpec]:
    return past(ToolCall(**{"id": "1", "name": "f", "arguments_json": "{}", **fields}))


SCHEMA = {"tools.tools[0].parameters_json_schema": INVALID}
CALL_ARGUMENTS = {"chat.messages[1].tool_calls[0].arguments_json": INVALID}
DEEP = '{"a": ' * 65 + "1" + "}" * 65
CASES: Mapping[str, tuple[Callable[[], GenerationSpec], Mapping[str, str]]] = {
    "text input": (lambda: GenerationSpec(text="a", tools=tools()), {"tools": INVALID}),
    "token input": (
        lambda: GenerationSpec(tokens=types_pb2.TokenInput(ids=[1]), tools=tools()),
        {"tools": INVALID},
    ),
    "many tools": (lambda: chat(tools=tools(*[ToolDefinition(name="f")] * 129)), {"tools.tools": INVALID}),
    "same name": (
        lambda: chat(tools=tools(*[ToolDefinition(name=name) for name in "fgf"])),
        {"tools.tools[2].name": INVALID},
    ),
    "no name": (tool(name=""), {"tools.tools[0].name": INVALID}),
    "long name": (tool(name="f" * 65), {"tools.tools[0].name": INVALID}),
    "bad name": (tool(name="f\n"), {"tools.tools[0].name": INVALID}),
    "no json": (tool(parameters_json_schema="{"), SCHEMA),
    "no object": (tool(parameters_json_schema="[]"), SCHEMA),
    "no object schema": (tool(parameters_json_schema='{"type": "string"}'), SCHEMA),
    "schema too deep": (tool(parameters_json_schema=DEEP), SCHEMA),
    "schema far too deep": (tool(parameters_json_schema='{"a":' * 100_000), SCHEMA),
    "not a number": (tool(parameters_json_schema='{"a": NaN}'), SCHEMA),
    "surrogate": (tool(parameters_json_schema='{"a": "\\ud800"}'), SCHEMA),
    "calls of a user": (past(PAST, role=USER), {"chat.messages[1].tool_calls": INVALID}),
    "no call id": (called(id=""), {"chat.messages[1].tool_calls[0].id": INVALID}),
    "long call id": (called(id="1" * 129), {"chat.messages[1].tool_calls[0].id": INVALID}),
    "same call id": (past(PAST, PAST), {"chat.messages[1].tool_calls[1].id": INVALID}),
    "bad call name": (called(name="f g"), {"chat.messages[1].tool_calls[0].name": INVALID}),
    "no arguments": (called(arguments_json=""), CALL_ARGUMENTS),
    "arguments no json": (called(arguments_json="{'a': 1}"), CALL_ARGUMENTS),
    "arguments no object": (called(arguments_json='"{}"'), CALL_ARGUMENTS),
    "arguments too deep": (called(arguments_json=DEEP), CALL_ARGUMENTS),
    "arguments beyond a double": (called(arguments_json='{"a": 1e999}'), CALL_ARGUMENTS),
    "result of no call": (
        lambda: chat(ASKED, CALLED, ChatMessage(role=TOOL, text="a", tool_call_id="call_2")),
        {"chat.messages[2].tool_call_id": INVALID},
    ),
    "result before its call": (
        lambda: chat(ASKED, RESULT, CALLED, RESULT),
        {"chat.messages[1].tool_call_id": INVALID},
    ),
    "result without id": (
        lambda: chat(ASKED, CALLED, ChatMessage(role=TOOL, text="a")),
        {"chat.messages[2].tool_call_id": INVALID},
    ),
    "empty result": (
        lambda: chat(ASKED, CALLED, ChatMessage(role=TOOL, tool_call_id="call_1")),
        {"chat.messages[2].text": INVALID},
    ),
    "id of a user": (
        lambda: chat(ASKED, CALLED, ChatMessage(role=USER, text="a", tool_call_id="call_1")),
        {"chat.messages[2].tool_call_id": INVALID},
    ),
    "calls last": (lambda: chat(ASKED, CALLED), {"chat.messages[1].role": INVALID}),
}


async def test_every_field_at_fault_is_named(processor: TextProcessor):
    async with open_thinker(processor, "hi") as model:
        for case, (make, fields) in CASES.items():
            request = generate_pb2.GenerateRequest(spec=make())
            failure = await failure_of(model.stubs.generate.Generate(request))
            expected = {f"spec.{field}": reason for field, reason in fields.items()}
            assert (failure.code, failure.fields) == ("INVALID_ARGUMENT", expected), case
        assert (await model.whole(chat(tools=types_pb2.ToolOptions()))).text == "hi"


@pytest.mark.parametrize("text", ["", "I look."])
async def test_calls_may_come_with_text(processor: TextProcessor, text: str):
    async with open_thinker(processor, "hi") as model:
        said = ChatMessage(role=ASSISTANT, text=text, tool_calls=[PAST])
        assert (await model.whole(chat(ASKED, said, RESULT))).text == "hi"
