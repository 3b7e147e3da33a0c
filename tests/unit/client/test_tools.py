"""Tools, calls, results and thinking, as callers write and read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwire.client import (
    AsyncClient,
    ChatMessage,
    Client,
    Delta,
    FinishReason,
    InvalidRequest,
    Message,
    Prompt,
    Role,
    Tool,
    ToolCall,
    ToolCallFragment,
)
from qwire.client.request import count_request, generation_spec
from qwire.client.testing import Answer, FakeServer
from qwire.v1 import types_pb2

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "Köln"}}}
WEATHER = Tool("weather", "Tells the weather.", SCHEMA)
CALL = ToolCall("call_1", "weather", '{"city": "Köln"}')
OPENAI_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}


def test_tools_are_sent_with_their_schemas() -> None:
    function = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
    spec = generation_spec("hi", {"tools": [WEATHER, Tool("now"), {"type": "function", "function": function}]})
    first, second, third = spec.tools.tools
    assert first == third
    assert (first.name, first.description) == ("weather", "Tells the weather.")
    assert json.loads(first.parameters_json_schema) == SCHEMA
    assert (second.description, second.parameters_json_schema) == ("", "")
    assert count_request("hi", "", None, [WEATHER], reasoning=False).tools.tools[0] == first


def test_thinking_is_asked_for_or_left_to_the_model() -> None:
    assert not generation_spec("hi", {"reasoning": None, "reasoning_budget_tokens": None}).HasField("reasoning")
    reasoning = generation_spec("hi", {"reasoning": False}).reasoning
    assert (reasoning.HasField("enabled"), reasoning.enabled, reasoning.HasField("budget_tokens")) == (
        True,
        False,
        False,
    )
    assert generation_spec("hi", {"reasoning_budget_tokens": 0}).reasoning.HasField("budget_tokens")
    assert count_request("hi", "", None, reasoning=True).reasoning.enabled


@pytest.mark.parametrize(
    "prompt",
    [
        [("user", "a"), ChatMessage(Role.ASSISTANT, "", [CALL]), ChatMessage.result_of(CALL, "sunny")],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
            {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
        ],
        [
            {"role": "user", "text": "a"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "text": "sunny", "tool_call_id": "call_1"},
        ],
        [
            {"role": "user", "text": "a"},
            {
                "role": "assistant",
                "text": "",
                "tool_calls": [
                    OPENAI_CALL | {"function": {"name": "weather", "arguments": {"city": "Köln"}}},
                ],
            },
            ChatMessage(Role.TOOL, "sunny", tool_call_id="call_1"),
        ],
    ],
)
def test_every_form_of_calls_and_results_is_the_same_message(prompt: Prompt) -> None:
    asked, called, result = generation_spec(prompt, {}).chat.messages
    assert asked == types_pb2.ChatMessage(role=types_pb2.ROLE_USER, text="a")
    call = types_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city": "Köln"}')
    assert called == types_pb2.ChatMessage(role=types_pb2.ROLE_ASSISTANT, tool_calls=[call])
    assert result == types_pb2.ChatMessage(role=types_pb2.ROLE_TOOL, text="sunny", tool_call_id="call_1")


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(Role.ASSISTANT, "a", reasoning="hm"),
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
        {"role": "assistant", "text": "a", "reasoning": "hm"},
        {"role": "assistant", "text": "a", "reasoning": "hm", "reasoning_content": None},
        {"role": "assistant", "text": "a", "reasoning": "hm", "reasoning_content": "hm"},
    ],
)
def test_every_form_of_thinking_is_the_same_message(message: Message) -> None:
    (said,) = generation_spec([message], {}).chat.messages
    assert said == types_pb2.ChatMessage(role=types_pb2.ROLE_ASSISTANT, text="a", reasoning="hm")
    (silent,) = generation_spec([{"role": "assistant", "content": "a", "reasoning_content": None}], {}).chat.messages
    assert silent == types_pb2.ChatMessage(role=types_pb2.ROLE_ASSISTANT, text="a")


CALLS = "spec.chat.messages[0].tool_calls"


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ("hi", {"tools": "f"}, "spec.tools.tools"),
        ("hi", {"tools": 5}, "spec.tools.tools"),
        ("hi", {"tools": ["f"]}, "spec.tools.tools[0]"),
        ("hi", {"tools": [WEATHER, {"name": "f"}]}, "spec.tools.tools[1]"),
        ("hi", {"tools": [{"type": "function", "function": {"description": "f"}}]}, "spec.tools.tools[0]"),
        ("hi", {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "spec.tools.tools[0]"),
        ("hi", {"tools": [{"type": "function", "function": {"name": "f"}, "x": 1}]}, "spec.tools.tools[0]"),
        ("hi", {"tools": [Tool(5)]}, "spec.tools.tools[0].name"),  # pyright: ignore[reportArgumentType]
        ("hi", {"tools": [Tool("f", parameters="{}")]}, "spec.tools.tools[0].parameters_json_schema"),  # pyright: ignore[reportArgumentType]
        ("hi", {"tools": [Tool("f", parameters={"a": {1}})]}, "spec.tools.tools[0].parameters_json_schema"),
        ("hi", {"tools": [Tool("f", parameters={"a": float("nan")})]}, "spec.tools.tools[0].parameters_json_schema"),
        ("hi", {"tools": [Tool("f", parameters={"a": "\ud800"})]}, "spec.tools.tools[0].parameters_json_schema"),
        ("hi", {"reasoning": "yes"}, "spec.reasoning.enabled"),
        ("hi", {"reasoning_budget_tokens": -1}, "spec.reasoning.budget_tokens"),
        ([ChatMessage(Role.ASSISTANT, "", "f")], {}, CALLS),  # pyright: ignore[reportArgumentType]
        ([{"role": "assistant", "tool_calls": ["f"]}], {}, f"{CALLS}[0]"),
        ([{"role": "assistant", "tool_calls": [OPENAI_CALL | {"index": 0}]}], {}, f"{CALLS}[0]"),
        (
            [{"role": "assistant", "tool_calls": [OPENAI_CALL | {"function": {"name": "f", "arguments": [1]}}]}],
            {},
            f"{CALLS}[0].arguments_json",
        ),
        ([ChatMessage(Role.ASSISTANT, "", [ToolCall(5, "f", "{}")])], {}, f"{CALLS}[0].id"),  # pyright: ignore[reportArgumentType]
        ([{"role": "tool", "tool_call_id": "1"}], {}, "spec.chat.messages[0]"),
        ([{"role": "tool", "content": "a", "tool_call_id": 5}], {}, "spec.chat.messages[0].tool_call_id"),
        ([{"role": "user", "content": None}], {}, "spec.chat.messages[0].text"),
        ([{"role": "assistant", "content": "a", "reasoning": 5}], {}, "spec.chat.messages[0].reasoning"),
        ([ChatMessage(Role.ASSISTANT, "a", reasoning=None)], {}, "spec.chat.messages[0].reasoning"),  # pyright: ignore[reportArgumentType]
        (
            [{"role": "assistant", "content": "a", "reasoning": "b", "reasoning_content": "c"}],
            {},
            "spec.chat.messages[0]",
        ),
    ],
)
def test_what_cannot_be_sent_names_its_field(prompt: Any, options: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        generation_spec(prompt, options)
    assert [violation.field for violation in raised.value.violations] == [field]


ANSWERS = [
    Answer(text="I look.", reasoning="hm", tool_calls=(CALL, ToolCall("call_2", "now", "{}"))),
    Answer(text="Sunny."),
]


def test_a_conversation_with_calls() -> None:
    with FakeServer(answers=ANSWERS) as server, Client(server.target) as client:
        messages: list[ChatMessage] = [ChatMessage(Role.USER, "How is the weather?")]
        asked = client.generate(messages, tools=[WEATHER])
        assert asked.finished.reason is FinishReason.TOOL_CALLS
        assert [call.arguments for call in asked.tool_calls] == [{"city": "Köln"}, {}]
        messages += [asked.message, *(ChatMessage.result_of(call, "sunny") for call in asked.tool_calls)]
        assert client.generate(messages, tools=[WEATHER]).text == "Sunny."
        sent = server.calls[1].request.spec.chat.messages  # pyright: ignore[reportAttributeAccessIssue] - of this RPC
        assert [(message.text, message.tool_call_id) for message in sent[1:]] == [
            ("I look.", ""),
            ("sunny", "call_1"),
            ("sunny", "call_2"),
        ]
        assert [call.id for call in sent[1].tool_calls] == ["call_1", "call_2"]
        assert [message.reasoning for message in sent] == ["", asked.reasoning, "", ""]
        assert asked.reasoning.strip() == "hm"


async def test_calls_are_events_of_a_stream() -> None:
    with FakeServer(answers=ANSWERS) as server:
        async with AsyncClient(server.target) as client, client.stream("hi", tools=[WEATHER]) as stream:
            calls = [event async for event in stream if isinstance(event, ToolCall)]
            assert calls == list((await stream.generation()).tool_calls)
            assert [call.id for call in calls] == ["call_1", "call_2"]
        with Client(server.target) as client:
            assert client.generate("hi", max_output_tokens=1).tool_calls == ()


def test_tools_and_thinking_are_counted() -> None:
    with FakeServer() as server, Client(server.target) as client:
        client.count_tokens("hi", tools=[WEATHER], reasoning=True)
        request: Any = server.calls[0].request
        assert request.tools.tools[0].name == "weather"
        assert request.reasoning.enabled


def test_a_call_is_told_of_while_it_is_written_where_asked_for() -> None:
    answer = Answer(text="I look.", tool_calls=(CALL,))
    with FakeServer(answers=[answer]) as server, Client(server.target) as client:
        with client.stream("hi", tools=[WEATHER], tool_call_fragments=True) as stream:
            events = list(stream)
        silent = list(client.stream("hi", tools=[WEATHER]))
    first, second = [one for event in events if isinstance(event, Delta) for one in event.tool_call_fragments]
    assert first == ToolCallFragment(0, CALL.id, CALL.name, first.arguments_json)
    assert second == ToolCallFragment(0, arguments_json=second.arguments_json)
    assert first.arguments_json + second.arguments_json == CALL.arguments_json
    assert stream.generation().tool_calls == (CALL,)
    assert not any(event.tool_call_fragments for event in silent if isinstance(event, Delta))
