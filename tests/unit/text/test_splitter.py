"""Thinking, answer and calls, told apart in text that comes in any pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwire.text.call_text import WrittenCall
from qwire.text.splitter import Channel, OutputSplitter, Part, Said

PIECES = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_", "call>", "</", "<", ">", "think>", "\n", "\n\n"),
    *('{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {"a": "</tool_call>"}}', '{"name": "f"', "{", "}"),
    *("```json\n", "```", "`", '{"a": 1}', '"', "\\", '\\"', " ", "hm", "é", "the answer", ", "),
]
OUTPUTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def split(text: str, cuts: list[int] | None = None, **options: Any) -> list[Part]:
    """Split a text that comes in the pieces between the cuts; neighbours of one channel are joined."""
    splitter = OutputSplitter(**options)
    ends = [*sorted(cuts or []), len(text)]
    parts: list[Part] = []
    for start, end in zip([0, *ends], ends, strict=False):
        parts += splitter.push(text[start:end])
    joined: list[Part] = []
    for part in [*parts, *splitter.finish()]:
        last = joined[-1] if joined else None
        if isinstance(part, Said) and isinstance(last, Said) and part.channel is last.channel:
            joined[-1] = Said(part.channel, last.text + part.text)
        else:
            joined.append(part)
    return joined


def said(text: str) -> Said:
    return Said(Channel.TEXT, text)


def thought(text: str) -> Said:
    return Said(Channel.REASONING, text)


def a_call(arguments: str, name: str = "f") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@given(text=OUTPUTS, data=st.data(), thinking=st.booleans(), opened=st.booleans(), calls=st.booleans())
def test_how_the_text_is_cut_changes_nothing(
    text: str, data: st.DataObject, *, thinking: bool, opened: bool, calls: bool
):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    opened = opened and thinking
    whole, cut, by_letter = (
        split(text, ends, thinking=thinking, opened=opened, tools="fg" if calls else "")
        for ends in ([], cuts, list(range(len(text))))
    )
    assert whole == cut == by_letter


@given(text=OUTPUTS)
@example(a_call("{}") + "\nrest")
@example('```json\n{"name": "f", "arguments": {}}```<tool_call>')
def test_nothing_but_tags_and_line_breaks_is_lost(text: str):
    rest = text
    for part in split(text, tools="fg"):
        if isinstance(part, Said):
            rest = rest if rest.startswith(part.text) else rest.lstrip("\n")
            assert rest.startswith(part.text)
            rest = rest[len(part.text) :]
        else:
            rest = rest.lstrip("\n")
            tags = [("<tool_call>", "</tool_call>"), ("```json\n", "```")]
            opening, closing = next((opening, closing) for opening, closing in tags if rest.startswith(opening))
            before, written, rest = rest.partition(part.arguments_json)
            assert before.startswith(opening)
            assert written == part.arguments_json
            brace, _, rest = rest.partition(closing)
            assert brace.strip() == "}"
    assert not rest.strip("\n")


def test_without_thinking_and_calls_all_of_it_is_the_answer():
    text = f"<think>hm</think>{a_call('{}')}"
    assert split(text) == [said(text)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nhm\n\nso\n</think>\n\nYes.", [thought("hm\n\nso"), said("Yes.")]),
        ("\n <think>hm</think>Yes.", [thought("hm"), said("Yes.")]),
        ("<think>\n\n</think>\n\nYes.", [said("Yes.")]),
        ("<think>\nhm\n", [thought("hm\n")]),
        ("<think>a </thin", [thought("a </thin")]),
        ("Yes <think>no</think>.", [said("Yes <think>no</think>.")]),
        ("  <thing>", [said("  <thing>")]),
        ("</think>Yes", [said("</think>Yes")]),
        ("<think>a</think>b</think>c", [thought("a"), said("b</think>c")]),
        ("<thi", [said("<thi")]),
    ],
)
def test_thinking_is_what_stands_before_the_answer(text: str, parts: list[Part]):
    assert split(text, thinking=True) == parts


def test_the_prompt_may_have_begun_the_thinking():
    assert split("\nhm\n</think>\n\nYes.", thinking=True, opened=True) == [thought("hm"), said("Yes.")]
    assert split("<think>hm</think>Yes.", thinking=True, opened=True) == [thought("<think>hm"), said("Yes.")]


def test_calls_come_with_the_exact_text_of_their_arguments():
    arguments = '{"b":1.50,  "a" : ["x", null, {"é": "\\u00e9"}]}'
    text = f"Look:\n{a_call(arguments, 'one')}\n{a_call('{}', 'two-2')}\n"
    assert split(text, tools="fg") == [
        said("Look:\n"),
        WrittenCall("one", arguments),
        WrittenCall("two-2", "{}"),
    ]


def a_block(text: str) -> str:
    return f"```json\n{text}\n```"


def test_a_call_may_stand_in_a_code_block():
    body = '{\n  "name": "f",\n  "arguments": {\n    "a": "```"\n  }\n}'
    text = f"So:\n{a_block(body)}\n{a_block(body)}"
    call = WrittenCall("f", '{\n    "a": "```"\n  }')
    assert split(text, tools="fg") == [said("So:\n"), call, call]
    assert split(text) == [said(text)]


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "other", "arguments": {}}',
        '{"arguments": {}, "name": "f"}',
        '{"name": "f"}',
        '{"surname": "f", "arguments": {}}',
        '[{"name": "f", "arguments": {}}]',
        '{"name": `f`, "arguments": {}}',
        "{}",
        "",
    ],
)
def test_most_code_blocks_are_text(body: str):
    assert split(f"a\n{a_block(body)}\nb", tools="fg") == [said(f"a\n{a_block(body)}\nb")]


def test_another_code_block_does_not_wait_for_its_end():
    splitter = OutputSplitter(tools="fg")
    assert splitter.push('```json\n{"a') == []
    assert splitter.push('": 1') == [said('```json\n{"a'), said('": 1')]


def test_thinking_may_speak_of_calls():
    text = f"<think>{a_call('{}')}</think>{a_call('{}')}"
    assert split(text, thinking=True, tools="fg") == [thought(a_call("{}")), WrittenCall("f", "{}")]


def test_a_tag_within_a_string_ends_no_call():
    arguments = '{"text": "</tool_call> \\" </tool_call>\\\\"}'
    assert split(a_call(arguments), tools="fg") == [WrittenCall("f", arguments)]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n",
        "no json",
        "{",
        "{}",
        "[]",
        '{"name": "f"}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": "{}"}',
        '{"name": "f", "arguments": {}, "more": 1}',
        '{"name": "f", "name": "g", "arguments": {}}',
        '{"name": 5, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "f g", "arguments": {}}',
        '{"name": "f\\ud800", "arguments": {}}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {"a": "line\nbreak"}}',
        '{"name": "f", "arguments": {}',
        '{"name": "f", "arguments": {}} trailing',
        '{"name": "f", "arguments": {},}',
        '{"name": "f" "arguments": {}}',
        '{"name": "f", "arguments": {"a": <b>}}',
        '{"name": "f", "arguments": ' + '{"a": ' * 5000 + "1" + "}" * 5001,
    ],
)
def test_what_is_no_call_is_text(body: str):
    text = f"a\n<tool_call>{body}</tool_call>\nb"
    assert split(text, tools="fg") == [said(text)]


def test_a_call_after_something_that_is_none():
    text = f'<tool_call>{{"name": {a_call("{}")} and <tool_call> is a tag, {a_call("{}")}'
    assert split(text, tools="fg") == [
        said('<tool_call>{"name": '),
        WrittenCall("f", "{}"),
        said(" and <tool_call> is a tag, "),
        WrittenCall("f", "{}"),
    ]


@pytest.mark.parametrize("end", range(1, len(a_call('{"a": "b"}'))))
def test_an_incomplete_call_is_text(end: int):
    text = a_call('{"a": "b"}')[:end]
    assert split(f"a\n{text}", tools="fg") == [said(f"a\n{text}")]


def test_prose_about_the_tag_does_not_wait():
    splitter = OutputSplitter(tools="fg")
    assert splitter.push("<tool_call> ") == []
    assert splitter.push("is") == [said("<tool_call>"), said(" is")]


@given(
    arguments=st.dictionaries(
        st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8) | st.lists(st.booleans(), max_size=3)
    ),
    ascii_only=st.booleans(),
)
def test_any_arguments_come_through(arguments: dict[str, object], *, ascii_only: bool):
    text = json.dumps(arguments, ensure_ascii=ascii_only)
    assert split(a_call(text), tools="fg") == [WrittenCall("f", text)]


def test_time_is_linear_in_what_never_becomes_a_call():
    for text in (
        "```json\n{" * 20_000,
        '<tool_call>{"a": "' + "</tool_call>" * 20_000,
        "<tool_call>{" * 20_000,
        "\n" * 100_000,
    ):
        assert split(text, list(range(0, len(text), 4)), tools="fg") == [said(text)]
