"""The prompts are those that transformers makes of the same tokenizer and template, for text without control tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwire.models.checkpoint import Checkpoint
from qwire.text.processor import TextProcessor
from qwire.text.request import ChatMessage, ChatPrompt, Role, TextPrompt
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer
from qwire.text.tool import PastCall, Tool

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("user im_start the <|>/_\n \t\u0301é")),
    min_size=1,
    max_size=40,
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[ChatMessage, ...]:
    roles = [
        *draw(st.lists(st.just(Role.SYSTEM), max_size=1)),
        *draw(st.lists(st.sampled_from([Role.USER, Role.ASSISTANT]), max_size=4)),
        Role.USER,
    ]
    return tuple(ChatMessage(role, draw(TEXTS)) for role in roles)


PROMPTS = [
    "Write a Python function that reverses a string",
    "Schreibe ein Gedicht über Füchse, Käse und süße Äpfel.",
    "请用中文解释一下什么是快速排序算法。",
    "日本語で、ひらがなとカタカナと漢字を混ぜて書いてください。",
    "Объясни разницу между списком и кортежем.",
    "اشرح لي كيف تعمل الشبكات العصبية",
    "हिन्दी में एक छोटी कहानी लिखो।",
    "한국어로 인사말을 써 주세요.",
    "ไทย: สวัสดีครับ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 🙂\u200d 🤷🏽‍♀️",
    "e\u0301 o\u0308 n\u0303 \u1112\u1161\u11ab",
    "    \t\t  indented\n\n\n\n   lines   \r\n\r\n   ",
    " " * 300 + "x" + "\n" * 50,
    "def f(x: int) -> int:\n\treturn x ** 2  # squares\n\nclass A(B):\n    pass\n",
    "SELECT * FROM t WHERE a <> 'b' AND c >= 10; -- <|> </s> <b>bold</b>",
    '{"key": [1, 2.5e-3, null, true], "nested": {"a\\n": "\\u00e9"}}',
    "1234567890 3.14159 0xDEADBEEF 1_000_000 12:34:56 2024-01-01",
    "I'm you're he'll we've they'd it's DON'T CAN'T",
    "a" * 500,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "<im_start> <|imstart|> |im_end| <|im_start |> < |im_end|>",
    "\x00\x01\x7f\u200b\ufeff\u2028\u00a0",
    "$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$",
    "https://example.org/path?query=1&x=%20#fragment user@example.org",
]


def of_transformers(tokenizer: Tokenizer, source: str):
    """Wrap a tokenizer as transformers would load it."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - takes seconds, and only these tests need it

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=source, eos_token="<|im_end|>")  # noqa: S106


def assert_parity(processor: TextProcessor, peer: object, messages: tuple[ChatMessage, ...]) -> None:
    conversation = [{"role": message.role.value, "content": message.text} for message in messages]
    expected = peer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)  # type: ignore[attr-defined]
    assert processor.encode(ChatPrompt(messages)) == expected


@pytest.mark.model
@pytest.mark.parametrize("template", ["template_source", "thinking_source", "inspecting_source"])
def test_conversations_are_encoded_as_by_transformers(
    folder: Path,
    full_tokenizer: Tokenizer,
    control_ids: dict[str, int],
    template: str,
    request: pytest.FixtureRequest,
):
    source: str = request.getfixturevalue(template)
    peer = of_transformers(full_tokenizer, source)
    processor = TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(source))

    @given(messages=conversations())
    def check(messages: tuple[ChatMessage, ...]) -> None:
        assume(not any(control in message.text for control in control_ids for message in messages))
        assert_parity(processor, peer, messages)

    check()


TOOL = Tool(
    "weather", "Tells the <b>weather</b>.", {"type": "object", "properties": {"city": {"enum": ["Köln", 'a"']}}}
)
TURNS = (
    ChatMessage(Role.SYSTEM, "Be brief."),
    ChatMessage(Role.USER, "How is the weather?"),
    ChatMessage(
        Role.ASSISTANT,
        "I look.",
        (PastCall("1", "weather", {"city": "Köln"}), PastCall("2", "weather", {})),
        reasoning="Which city?\n\nKöln.",
    ),
    ChatMessage(Role.TOOL, "sunny", tool_call_id="1", tool_name="weather"),
    ChatMessage(Role.TOOL, "no city", tool_call_id="2", tool_name="weather"),
)


def assert_tool_parity(processor: TextProcessor, peer: object, *, thinking: bool | None) -> None:
    turns = [
        {
            "role": turn.role.value,
            "content": turn.text,
            "reasoning_content": turn.reasoning,
            "tool_calls": [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in turn.tool_calls
            ],
        }
        for turn in TURNS
    ]
    function = {"name": TOOL.name, "description": TOOL.description, "parameters": TOOL.parameters}
    switch = {} if thinking is None else {"enable_thinking": thinking}
    expected = peer.apply_chat_template(  # type: ignore[attr-defined]
        turns,
        tools=[{"type": "function", "function": function}],
        add_generation_prompt=True,
        return_dict=False,
        **switch,
    )
    assert processor.encode(ChatPrompt(TURNS, (TOOL,), thinking)) == expected


@pytest.mark.model
@pytest.mark.parametrize("template", ["template_source", "thinking_source"])
def test_tools_are_encoded_as_by_transformers(
    folder: Path, full_tokenizer: Tokenizer, template: str, request: pytest.FixtureRequest
):
    source: str = request.getfixturevalue(template)
    processor = TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(source))
    for thinking in (None, True, False):
        assert_tool_parity(processor, of_transformers(full_tokenizer, source), thinking=thinking)


@pytest.mark.default_model
def test_the_default_models_tools_are_those_of_transformers(default_checkpoint: Checkpoint):
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds, and only these tests need it

    peer = AutoTokenizer.from_pretrained(default_checkpoint.folder)
    assert_tool_parity(TextProcessor.from_folder(default_checkpoint.folder), peer, thinking=None)


@pytest.mark.default_model
def test_the_default_models_prompts_are_those_of_transformers(default_checkpoint: Checkpoint):
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds, and only these tests need it

    peer = AutoTokenizer.from_pretrained(default_checkpoint.folder)
    processor = TextProcessor.from_folder(default_checkpoint.folder)
    for text in PROMPTS:
        assert processor.encode(TextPrompt(text)) == peer(text)["input_ids"]
        assert_parity(processor, peer, (ChatMessage(Role.USER, text),))
    turns = tuple(
        ChatMessage(Role.ASSISTANT if n % 2 else Role.USER, text) for n, text in enumerate([*PROMPTS, "Go on."])
    )
    assert_parity(processor, peer, (ChatMessage(Role.SYSTEM, "You are terse."), *turns))


@pytest.mark.default_model
def test_the_default_models_control_tokens_are_out_of_reach(default_checkpoint: Checkpoint):
    full = Tokenizer.from_file(str(default_checkpoint.folder / "tokenizer.json"))
    added = {token.content: token_id for token_id, token in full.get_added_tokens_decoder().items()}
    assert len(added) == 22
    processor = TextProcessor.from_folder(default_checkpoint.folder)
    text = "".join(added)
    assert not set(processor.encode(TextPrompt(text))) & set(added.values())
    ids = processor.encode(ChatPrompt((ChatMessage(Role.USER, text),)))
    assert [token_id for token_id in ids if token_id in added.values()] == [151644, 151645] * 2 + [151644]
    assert text in full.decode(ids, skip_special_tokens=False)
