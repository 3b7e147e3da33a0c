"""Lines of OpenAI's Batch API: what one tells can be asked with again."""

from __future__ import annotations

import json
from pathlib import Path

from qwire.client import BatchItemState, BatchJobItem, Client, ToolCall
from qwire.client.jsonl import LineFormat, read_items, result_line
from qwire.client.request import generation_spec
from qwire.client.testing import Answer, FakeServer


def write(folder: Path, body: object) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text(json.dumps({"custom_id": "a", "body": body}), encoding="utf-8")
    return path


def test_an_answer_with_thinking_and_calls_can_be_given_back(tmp_path: Path) -> None:
    answer = Answer(text="I look.", reasoning="hm", tool_calls=(ToolCall("1", "weather", "{}"),))
    with FakeServer(answers=[answer]) as server, Client(server.target) as client:
        generation = client.generate("How is the weather?")
    item = BatchJobItem("a", 1, BatchItemState.SUCCEEDED, 1, None, generation, None, cursor=1)
    told = json.loads(result_line(item, LineFormat.OPENAI))["response"]["body"]["choices"][0]["message"]
    assert told["reasoning_content"] == generation.reasoning
    asked = {"role": "user", "content": "How is the weather?"}
    messages = [asked, told, {"role": "tool", "content": "sunny", "tool_call_id": "1"}]
    (read,) = read_items(write(tmp_path, {"messages": messages}))
    sent = generation_spec(read.prompt, read.options).chat.messages
    expected = generation_spec([asked, generation.message, messages[2]], {}).chat.messages
    assert list(sent) == list(expected)
    assert sent[1].reasoning == generation.reasoning


def test_a_null_beside_the_other_limit_asks_for_nothing(tmp_path: Path) -> None:
    body = {"messages": [], "max_tokens": None, "max_completion_tokens": 3}
    assert [item.options for item in read_items(write(tmp_path, body))] == [{"max_output_tokens": 3}]
