"""Tools and calls in a prompt: rendered by the model's template, and never a way to its control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwire.engine.errors import InvalidRequest
from qwire.text.processor import TextProcessor
from qwire.text.request import ChatMessage, ChatPrompt, Role
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer
from qwire.text.tool import PastCall, Tool

from .test_injection import HOSTILE, PIECES, nfc

WEATHER = Tool("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(HOSTILE, JSON, max_size=3)


def conversation(*, call: PastCall, result: str = "sunny", tools: tuple[Tool, ...] = (WEATHER,)) -> ChatPrompt:
    messages = (
        ChatMessage(Role.USER, "How is the weather?"),
        ChatMessage(Role.ASSISTANT, "", (call,)),
        ChatMessage(Role.TOOL, result, tool_call_id=call.id, tool_name=call.name),
    )
    return ChatPrompt(messages, tools)


CALL = PastCall("call_1", "weather", {"city": "Köln"})


def reasoned(now: str, before: str = "") -> ChatPrompt:
    """A turn that is over, and one in which a tool was called; the model thought in both, where it thought."""
    messages = (
        ChatMessage(Role.USER, "hi"),
        ChatMessage(Role.ASSISTANT, "Hello.", reasoning=before),
        ChatMessage(Role.USER, "How is the weather?"),
        ChatMessage(Role.ASSISTANT, "I look.", (CALL,), reasoning=now),
        ChatMessage(Role.TOOL, "sunny", tool_call_id=CALL.id, tool_name=CALL.name),
    )
    return ChatPrompt(messages, (WEATHER,))


@pytest.mark.parametrize("kind", ["processor", "thinker"])
def test_tools_calls_and_results_are_rendered(kind: str, request: pytest.FixtureRequest, full_tokenizer: Tokenizer):
    processor: TextProcessor = request.getfixturevalue(kind)
    assert processor.abilities.tools
    text = full_tokenizer.decode(processor.encode(conversation(call=CALL)), skip_special_tokens=False)
    assert (
        '<tools>\n{"type": "function", "function": {"name": "weather", "description": "Tells the weather.",'
        ' "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}\n</tools>'
    ) in text
    assert text.endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_tool_without_description_and_parameters_takes_no_arguments(
    processor: TextProcessor, full_tokenizer: Tokenizer
):
    prompt = ChatPrompt((ChatMessage(Role.USER, "hi"),), (Tool("now", "", {}),))
    assert (
        '{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}'
    ) in full_tokenizer.decode(processor.encode(prompt), skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["processor", "thinker"])
def test_no_text_of_a_tool_or_call_becomes_a_control_token(
    kind: str, request: pytest.FixtureRequest, full_tokenizer: Tokenizer, control_ids: dict[str, int]
):
    processor: TextProcessor = request.getfixturevalue(kind)
    harmless = processor.encode(conversation(call=CALL))
    expected = [token_id for token_id in harmless if token_id in control_ids.values()]

    @given(texts=st.lists(HOSTILE, min_size=4, max_size=4), schema=OBJECTS, arguments=OBJECTS)
    def check(texts: list[str], schema: dict[str, object], arguments: dict[str, object]) -> None:
        name, description, result, call_id = texts
        tool = Tool(name, description, schema)
        prompt = conversation(call=PastCall(call_id, name, arguments), result=result, tools=(tool,))
        ids = processor.encode(prompt)
        assert [token_id for token_id in ids if token_id in control_ids.values()] == expected
        text = full_tokenizer.decode(ids, skip_special_tokens=False)
        for told in (description, arguments, schema or {"type": "object", "properties": {}}):
            assert nfc(json.dumps(told, ensure_ascii=False)) in text
        assert nfc(result) in text

    check()


@given(text=HOSTILE)
def test_nor_where_the_template_dumps_json_in_ascii(
    folder: Path, full_tokenizer: Tokenizer, control_ids: dict[str, int], text: str
):
    source = "<|im_start|>{{ tools | tojson(ensure_ascii=true) }}<tool_call>"
    processor = TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(source))
    ids = processor.encode(ChatPrompt((ChatMessage(Role.USER, "hi"),), (Tool("f", text, {}),)))
    inner = ids[1:-1]
    assert not set(inner) & set(control_ids.values())
    assert json.loads(full_tokenizer.decode(inner, skip_special_tokens=False))[0]["function"]["description"] == text


def test_escaped_control_tokens_in_arguments_are_text(processor: TextProcessor, control_ids: dict[str, int]):
    arguments = json.loads('{"\\u003c|im_end|\\u003e": "\\u003ctool_call\\u003e"}')
    ids = processor.encode(conversation(call=PastCall("1", "f", arguments)))
    harmless = processor.encode(conversation(call=PastCall("1", "f", {"a": "b"})))
    for token_id in control_ids.values():
        assert ids.count(token_id) == harmless.count(token_id)


@pytest.mark.parametrize("piece", ["tool_call", "think", "im_start", *PIECES[:7]])
def test_names_are_no_way_in(processor: TextProcessor, control_ids: dict[str, int], piece: str):
    ids = processor.encode(conversation(call=PastCall(piece, piece, {}), tools=(Tool(piece, piece, {piece: piece}),)))
    harmless = processor.encode(conversation(call=PastCall("1", "f", {}), tools=(Tool("f", "f", {"f": "f"}),)))
    for token_id in control_ids.values():
        assert ids.count(token_id) == harmless.count(token_id)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (conversation(call=PastCall("1", "f", {"a": ["\ud800"]})), "chat.messages[1].tool_calls[0]"),
        (reasoned("\ud800"), "chat.messages[3].reasoning"),
        (conversation(call=CALL, tools=(WEATHER, Tool("f", "", {"\ud800": 1}))), "tools.tools[1]"),
    ],
)
def test_a_surrogate_is_no_text(processor: TextProcessor, prompt: ChatPrompt, field: str):
    with pytest.raises(InvalidRequest) as caught:
        processor.encode(prompt)
    assert caught.value.field == field


def test_thinking_is_kept_after_the_last_message_of_the_user(thinker: TextProcessor, full_tokenizer: Tokenizer):
    text = full_tokenizer.decode(thinker.encode(reasoned("now\nthen", "before")), skip_special_tokens=False)
    assert "<|im_start|>assistant\nHello.<|im_end|>" in text, "that turn is over"
    assert "<|im_start|>assistant\n<think>\nnow\nthen\n</think>\n\nI look.\n<tool_call>\n" in text
    without = full_tokenizer.decode(thinker.encode(reasoned("")), skip_special_tokens=False)
    assert without == text.replace("<think>\nnow\nthen\n</think>\n\n", "")


@given(thoughts=HOSTILE)
def test_no_thinking_that_is_given_back_becomes_a_control_token(
    thinker: TextProcessor, full_tokenizer: Tokenizer, control_ids: dict[str, int], thoughts: str
):
    ids = thinker.encode(reasoned(f"so{thoughts}.", "before"))
    harmless = thinker.encode(reasoned("hm"))
    for token_id in control_ids.values():
        assert ids.count(token_id) == harmless.count(token_id)
    assert nfc(f"<think>\nso{thoughts}.\n</think>") in full_tokenizer.decode(ids, skip_special_tokens=False)


def test_thinking_that_is_given_back_counts_as_the_prompts_text(thinker: TextProcessor):
    assert thinker.characters(reasoned("four")) == thinker.characters(reasoned("")) + 4


def test_thinking_is_switched_by_the_template(thinker: TextProcessor, full_tokenizer: Tokenizer):
    def end(*, thinking: bool | None) -> str:
        prompt = ChatPrompt((ChatMessage(Role.USER, "hi"),), thinking=thinking)
        return full_tokenizer.decode(thinker.encode(prompt), skip_special_tokens=False).rpartition("assistant\n")[2]

    assert (end(thinking=None), end(thinking=True)) == ("", "")
    assert end(thinking=False) == "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("source", "tools", "thinking", "switch"),
    [
        ("{{ messages }}", False, False, False),
        ("{{ tools }}<tool_call>", True, False, False),
        ("{{ tools }}", False, False, False),
        ("{{ tools }}<tool_call>\n<function=name>", False, False, False),
        ("<tool_call>{% set tools = [] %}{{ tools }}", False, False, False),
        ("{{ messages }}<think>\n", False, True, False),
        ("{% if enable_thinking %}{% endif %}", False, True, True),
    ],
)
def test_what_a_model_can_is_seen_from_its_template(
    folder: Path,
    source: str,
    *,
    tools: bool,
    thinking: bool,
    switch: bool,
):
    abilities = TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(source)).abilities
    assert (abilities.tools, abilities.thinking, abilities.thinking_switch) == (tools, thinking, switch)


def test_tags_that_the_tokenizer_hides_cannot_be_read(spec: dict[str, object], thinking_source: str):
    added = [{**token, "special": True} for token in spec["added_tokens"]]  # type: ignore[attr-defined]
    abilities = TextProcessor(QwenTokenizer({**spec, "added_tokens": added}), ChatTemplate(thinking_source)).abilities
    assert (abilities.chat, abilities.tools, abilities.thinking) == (True, False, False)
