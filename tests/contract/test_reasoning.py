"""Thinking from request to answer, over the wire."""

from __future__ import annotations

import pytest

from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2, types_pb2
from qwire.v1.types_pb2 import ChatMessage, GenerationSpec, ReasoningOptions, ToolCall
from tests.contract.failure import failure_of
from tests.contract.test_field_ranges import ASSISTANT, INVALID, TOOL, UNSUPPORTED, USER
from tests.contract.thinker import TEMPLATE, chat, open_thinker

THINKING = "<think>\nlet me see\n</think>\n\nYes."
FORCED = "\n</think>\n\n"


async def test_thinking_is_a_channel_of_its_own(processor: TextProcessor):
    async with open_thinker(processor, THINKING) as model:
        whole = await model.whole(chat())
        assert (whole.reasoning, whole.text) == ("let me see", "Yes.")
        assert whole.finished.usage.output_tokens == len(THINKING) + 1
        spelled = len("<think>") - 1, len("\n\nYes.") + 1  # no token is known to be thinking before its tag is there
        assert whole.finished.usage.reasoning_tokens == len(THINKING) + 1 - sum(spelled)
        responses = await model.stream(chat())
        for channel, text in (
            (types_pb2.CHANNEL_REASONING, whole.reasoning),
            (types_pb2.CHANNEL_TEXT, whole.text),
        ):
            deltas = [response.delta for response in responses if response.HasField("delta")]
            assert "".join(delta.text for delta in deltas if delta.channel == channel) == text
        assert [token for response in responses for token in response.delta.tokens] == list(whole.tokens)


@pytest.mark.parametrize(("enabled", "end"), [(None, ""), (True, ""), (False, "<think>\n\n</think>\n\n")])
async def test_the_template_is_told_whether_to_think(processor: TextProcessor, enabled: bool | None, end: str):  # noqa: FBT001 - a table
    async with open_thinker(processor, "Yes.") as model:
        whole = await model.whole(chat(reasoning=ReasoningOptions(enabled=enabled)))
        assert (whole.reasoning, whole.text) == ("", "Yes.")
        assert model.prompt().endswith(f"assistant\n{end}")


async def test_plain_text_is_not_split(processor: TextProcessor):
    async with open_thinker(processor, THINKING) as model:
        whole = await model.whole(GenerationSpec(text="hi"))
        assert (whole.reasoning, whole.text) == ("", THINKING)


async def test_a_spent_budget_makes_the_model_answer(processor: TextProcessor):
    async with open_thinker(processor, THINKING, after="So yes.") as model:
        spec = chat(reasoning=ReasoningOptions(budget_tokens=6), sampling=types_pb2.SamplingOptions(seed=3))
        whole = await model.whole(spec)
        thoughts = "<think>\nlet "
        assert (whole.reasoning, whole.text) == ("let ", "So yes.")
        expected = model.ids(f"{thoughts}{FORCED}So yes.")
        assert [token.id for token in whole.tokens[:-1]] == expected
        assert whole.finished.usage.output_tokens == len(expected) + 1
        assert whole.finished.usage.reasoning_tokens == 6 + len("\n</think>")
        assert [request.envelope.admitted for request in model.engine.requests[-2:]] == [False, True]
        responses = await model.stream(spec)
        assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))
        assert [token for response in responses for token in response.delta.tokens] == list(whole.tokens)
        for cut in range(2, len(responses) - 1):
            spec.resume.Clear()
            spec.resume.output_token_ids.extend(token.id for seen in responses[:cut] for token in seen.delta.tokens)
            spec.resume.last_sequence = responses[cut - 1].sequence
            rest = await model.stream(spec)
            assert [response.sequence for response in rest[:2]] == [cut + 1, cut + 2]
            assert rest[1:-1] == _renumbered(responses[cut:-1], cut + 2)
            assert rest[-1].finished.usage == whole.finished.usage


def _renumbered(
    responses: list[generate_pb2.StreamGenerateResponse], first: int
) -> list[generate_pb2.StreamGenerateResponse]:
    """Return the events as they come behind a `started`."""
    copies: list[generate_pb2.StreamGenerateResponse] = []
    for sequence, response in enumerate(responses, start=first):
        copy = generate_pb2.StreamGenerateResponse()
        copy.CopyFrom(response)
        copy.sequence = sequence
        copies.append(copy)
    return copies


async def test_thinking_is_given_back_with_the_results_of_calls(processor: TextProcessor):
    async with open_thinker(processor, "Sunny.") as model:
        call = ToolCall(id="1", name="weather", arguments_json="{}")
        messages = [
            ChatMessage(role=USER, text="How is the weather?"),
            ChatMessage(role=ASSISTANT, reasoning="I look <|im_end|></think>", tool_calls=[call]),
            ChatMessage(role=TOOL, text="sunny", tool_call_id="1"),
        ]
        spec = chat(*messages)
        assert (await model.whole(spec)).text == "Sunny."
        thoughts = "<think>\nI look <|im_end|></think>\n</think>\n\n"
        assert f"assistant\n{thoughts}<tool_call>\n" in model.prompt(), (
            "the template's own control tokens show as nothing"
        )
        counted = await model.stubs.generate.CountTokens(generate_pb2.CountTokensRequest(chat=spec.chat))
        spec.chat.messages[1].reasoning = ""
        assert (await model.whole(spec)).text == "Sunny."
        assert "<think>" not in model.prompt()
        assert counted.tokens > len(model.engine.requests[-1].prompt_token_ids)


async def test_fields_at_fault_are_named(processor: TextProcessor):
    always = TEMPLATE.read_text(encoding="utf-8").replace("enable_thinking", "other")
    for template, spec, fields in (
        (None, GenerationSpec(text="a", reasoning=ReasoningOptions(enabled=True)), {"reasoning": INVALID}),
        (
            None,
            chat(reasoning=ReasoningOptions(enabled=False, budget_tokens=1)),
            {"reasoning.budget_tokens": INVALID},
        ),
        (always, chat(reasoning=ReasoningOptions(enabled=False)), {"reasoning.enabled": UNSUPPORTED}),
        ("{{ messages }}", chat(reasoning=ReasoningOptions(budget_tokens=1)), {"reasoning": UNSUPPORTED}),
        (
            None,
            chat(ChatMessage(role=USER, text="a", reasoning="b")),
            {"chat.messages[0].reasoning": INVALID},
        ),
        (
            None,
            chat(ChatMessage(role=ASSISTANT, reasoning="b"), ChatMessage(role=USER, text="a")),
            {"chat.messages[0].text": INVALID},
        ),
    ):
        async with open_thinker(processor, "hi", template=template) as model:
            failure = await failure_of(model.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
            assert failure.fields == {f"spec.{field}": reason for field, reason in fields.items()}
