"""The chat template of a model: turns a conversation into the text of a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import meta
from jinja2.exceptions import TemplateSyntaxError

from qwire.engine.errors import InvalidRequest
from qwire.text.call_scanner import CALL_OPEN
from qwire.text.errors import UnusableTokenizer
from qwire.text.request import ChatMessage
from qwire.text.sandbox import MessagesRefused, sandbox
from qwire.text.splitter import THINK_OPEN
from qwire.text.tool import Tool

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_OTHER_CALLS = "<function="
"""Marks the templates whose models write calls in XML, as Qwen3-Coder does."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: The template, in Jinja's language as transformers extends it.
        named_tokens: The texts of the tokens that templates know by name, such as `eos_token`.

    Attributes:
        source: The same.
        has_tools: Whether it renders tools, and has the model write calls as JSON objects between tags.
        has_thinking: Whether it knows of thinking.
        has_thinking_switch: Whether thinking can be switched on and off.

    Raises:
        UnusableTokenizer: The source is not a template.
    """

    def __init__(self, source: str, named_tokens: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._named_tokens = dict(named_tokens or {})
        environment = sandbox()
        try:
            names = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise UnusableTokenizer(f"the chat template has a syntax error in line {error.lineno}") from error
        self.has_tools = "tools" in names and CALL_OPEN in source and _OTHER_CALLS not in source
        self.has_thinking_switch = "enable_thinking" in names
        self.has_thinking = self.has_thinking_switch or THINK_OPEN in source

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate | None:
        """Return the template of a model's folder: chat_template.jinja, or else the one in tokenizer_config.json.

        Returns:
            None where the folder holds neither.

        Raises:
            UnusableTokenizer: The template cannot be read.
        """
        config = _read_config(folder / "tokenizer_config.json")
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else _declared_template(config)
        return None if source is None else cls(source, _named_tokens(config))

    def render(
        self, messages: Iterable[ChatMessage], tools: Sequence[Tool] = (), *, thinking: bool | None = None
    ) -> str:
        """Return the prompt's text, up to where the assistant speaks next.

        Raises:
            InvalidRequest: The template does not take these messages.
        """
        # To templates, a switch that is not defined is another thing than one that is None.
        switch = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._template.render(
                messages=[_plain_message(message) for message in messages],
                tools=[_plain_tool(tool) for tool in tools] or None,
                documents=None,
                add_generation_prompt=True,
                **switch,
                **self._named_tokens,
            )
        except MessagesRefused as error:
            raise InvalidRequest("chat.messages", f"the model's chat template refuses them: {error.message}") from error


def _plain_message(message: ChatMessage) -> dict[str, Any]:
    """Return a message in the form that chat templates expect."""
    plain: dict[str, Any] = {"role": message.role.value, "content": message.text}
    if message.reasoning:
        plain["reasoning_content"] = message.reasoning
    if message.tool_calls:
        plain["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        plain |= {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return plain


def _plain_tool(tool: Tool) -> dict[str, Any]:
    """Return a tool in the form that chat templates expect."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _read_config(path: Path) -> dict[str, Any]:
    """Return a tokenizer_config.json; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        config: object = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnusableTokenizer(f"{path} is not JSON") from error
    if not isinstance(config, dict):
        raise UnusableTokenizer(f"{path} is not a JSON object")
    return config


def _declared_template(config: Mapping[str, Any]) -> str | None:
    """Return the template of a config, which may declare one text, or several with names."""
    declared = config.get("chat_template")
    if declared is None or isinstance(declared, str):
        return declared
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in declared}.get("default")
    except (KeyError, TypeError) as error:
        raise UnusableTokenizer("chat_template of tokenizer_config.json is not a text or a list of them") from error


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in _NAMED_TOKENS:
        match config.get(name):
            case None:
                continue
            case str(text) | {"content": str(text)}:
                tokens[name] = text
            case _:
                raise UnusableTokenizer(f"{name} of tokenizer_config.json is not a token")
    return tokens
