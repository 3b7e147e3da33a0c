"""What rows ask for."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from qwire.client import GenerationOptions, InvalidRequest
from qwire.serve.columns.row_reader import RowReader
from qwire.v1 import types_pb2

DEFAULTS = GenerationOptions(max_output_tokens=5, temperature=0.5)


def specs(
    columns: dict[str, list[Any]], prompt_column: str | None = None, defaults: GenerationOptions = DEFAULTS
) -> list[types_pb2.GenerationSpec]:
    table = pa.table(columns)
    reader = RowReader.of(table.schema, prompt_column, defaults)
    rows = table.select(list(reader.columns)).to_pylist()
    return [reader.spec(row, number) for number, row in enumerate(rows)]


def refused(columns: dict[str, list[Any]], prompt_column: str | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        specs(columns, prompt_column)
    return caught.value.message


def texts(spec: types_pb2.GenerationSpec) -> list[str]:
    return [message.text for message in spec.chat.messages]


def test_options_of_a_row_replace_those_of_the_command() -> None:
    first, second = specs({"prompt": ["a", "b"], "options": [{"temperature": 0.0, "seed": None}, {"seed": 3}]})
    assert (texts(first), texts(second)) == (["a"], ["b"])
    assert (first.sampling.temperature, first.sampling.HasField("seed")) == (0.0, False)
    assert (second.sampling.temperature, second.sampling.seed) == (0.5, 3)
    assert first.stop.max_output_tokens == second.stop.max_output_tokens == 5


def test_a_column_can_be_named_and_others_are_only_kept() -> None:
    (spec,) = specs({"question": ["a"], "prompt": ["b"], "model": ["gpt"], "choices": [["x", "y"]]}, "question")
    assert texts(spec) == ["a"]
    assert spec.model == ""
    assert not spec.HasField("constraint")


@pytest.mark.parametrize("written", [list, json.dumps])
def test_messages_are_a_list_or_json(written: Any) -> None:
    conversations = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        [
            {"role": "user", "content": "u"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "t", "tool_call_id": "1"},
        ],
    ]
    first, second = specs({"messages": [written(one) for one in conversations]})
    assert texts(first) == ["s", "u"]
    assert texts(second) == ["u", "", "t"]
    assert second.chat.messages[1].tool_calls[0].name == "f"


@pytest.mark.parametrize("written", [dict, json.dumps])
def test_openai_columns_mean_what_lines_of_it_mean(written: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "stop": ["x"]}
    (spec,) = specs({"custom_id": ["1"], "url": ["/v1/chat/completions"], "body": [written(body)], "label": [1]})
    assert (spec.model, spec.stop.max_output_tokens, list(spec.stop.stop_strings)) == ("m", 7, ["x"])
    assert texts(spec) == ["hi"]


def test_lines_are_those_of_a_job() -> None:
    lines = ['"a"', '{"prompt": [{"role": "user", "content": "b"}], "max_output_tokens": 9}']
    table = pa.table({"line": lines})
    reader = RowReader.of(table.schema, None, DEFAULTS)
    first, second = (reader.spec(row, number) for number, row in enumerate(table.to_pylist()))
    assert (texts(first), texts(second)) == (["a"], ["b"])
    assert (first.stop.max_output_tokens, second.stop.max_output_tokens) == (5, 9)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": [None]}, "row 0.prompt: is missing"),
        ({"prompt": [5]}, "row 0.chat.messages: a string or a sequence of messages is needed, got int"),
        ({"messages": ["hi"]}, "row 0.messages: not JSON"),
        ({"prompt": ["a"], "options": ['{"temprature": 1}']}, "row 0: unknown option 'temprature'"),
        ({"prompt": ["a"], "options": ['{"prompt": "b"}']}, "row 0.options: unknown option 'prompt'"),
        ({"prompt": ["a"], "options": ["[1]"]}, "row 0.options: names and values are needed"),
        ({"prompt": ["a"], "options": ['{"priority": "high"}']}, "row 0.priority: "),
        ({"prompt": ["a"], "options": [{"top_logprobs": 0}]}, "row 0.top_logprobs: no column of the output holds it"),
        ({"prompt": ["a"], "options": [{"temperature": "hot"}]}, "row 0.sampling.temperature: "),
        ({"custom_id": ["1"], "body": ["{}"], "url": ["/v1/embeddings"]}, "row 0: a POST to"),
        ({"custom_id": [None], "body": ["{}"]}, "row 0.custom_id: is missing"),
        ({"text": ["a"]}, "prompt_column: must name the column of the prompts; there are text"),
        ({"prompt": ["a"], "messages": ["b"]}, "prompt_column: "),
    ],
)
def test_what_is_wrong_is_named(columns: dict[str, list[Any]], message: str) -> None:
    assert refused(columns).startswith(message)


def test_a_named_column_has_to_be_there() -> None:
    assert refused({"prompt": ["a"]}, "question").startswith("prompt_column: ")
