from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwire.engine.errors import InvalidRequest
from qwire.text.errors import UnusableTokenizer
from qwire.text.request import ChatMessage, Role
from qwire.text.template import ChatTemplate

HELLO = (ChatMessage(Role.USER, "Hello"),)


def test_qwen_adds_its_own_system_message(template_source: str):
    assert ChatTemplate(template_source).render(HELLO) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_conversation_is_rendered_in_order(template_source: str):
    messages = (
        ChatMessage(Role.SYSTEM, "Be brief."),
        ChatMessage(Role.USER, "a"),
        ChatMessage(Role.ASSISTANT, "b"),
        ChatMessage(Role.USER, "c"),
    )
    assert ChatTemplate(template_source).render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


def test_messages_that_the_template_refuses_are_the_callers_fault():
    template = ChatTemplate("{% if messages | length < 2 %}{{ raise_exception('two at least') }}{% endif %}")
    with pytest.raises(InvalidRequest, match="two at least") as caught:
        template.render(HELLO)
    assert caught.value.field == "chat.messages"


def test_a_template_with_a_syntax_error_cannot_be_served():
    with pytest.raises(UnusableTokenizer, match="line 2"):
        ChatTemplate("{% if true %}\n{% end %}")


def write(folder: Path, config: object, template: str | None = None) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "file", "expected"),
    [
        ({"chat_template": "config"}, None, "config"),
        ({"chat_template": "config"}, "file", "file"),
        ({}, "file", "file"),
        ({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]}, None, "b"),
    ],
)
def test_the_file_goes_before_the_config(tmp_path: Path, config: object, file: str | None, expected: str):
    template = ChatTemplate.from_folder(write(tmp_path, config, file))
    assert template is not None
    assert template.render(HELLO) == expected


@pytest.mark.parametrize("config", [{}, {"chat_template": [{"name": "rag", "template": "a"}]}])
def test_a_model_may_have_no_template(tmp_path: Path, config: object):
    assert ChatTemplate.from_folder(write(tmp_path, config)) is None
    assert ChatTemplate.from_folder(tmp_path / "nowhere") is None


def test_templates_know_tokens_by_name(tmp_path: Path):
    config = {"eos_token": "<e>", "pad_token": {"content": "<p>"}, "bos_token": None}
    template = ChatTemplate.from_folder(write(tmp_path, config, "{{ eos_token }}{{ pad_token }}{{ bos_token }}"))
    assert template is not None
    assert template.render(HELLO) == "<e><p>"


@pytest.mark.parametrize("content", ["[]", "{", '{"chat_template": 1}', '{"chat_template": [1]}'])
def test_a_broken_config_cannot_be_served(tmp_path: Path, content: str):
    (tmp_path / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnusableTokenizer):
        ChatTemplate.from_folder(tmp_path)


def test_a_broken_named_token_cannot_be_served(tmp_path: Path):
    with pytest.raises(UnusableTokenizer, match="eos_token"):
        ChatTemplate.from_folder(write(tmp_path, {"eos_token": 1}, "x"))
