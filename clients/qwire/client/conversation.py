"""Reads the forms that callers may write a conversation and its tools in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from qwire.client.errors import InvalidRequest
from qwire.client.prompt import ChatMessage, Message, Role
from qwire.client.tool import Tool, ToolCall

_TEXT_KEYS = {"content", "text"}
_REASONING_KEYS = {"reasoning", "reasoning_content"}
_MESSAGE_KEYS = {"role", *_TEXT_KEYS, *_REASONING_KEYS, "tool_calls", "tool_call_id"}
_FUNCTION_KEYS = {"name", "description", "parameters"}


def conversation(prompt: str | Sequence[Message], path: str) -> list[ChatMessage]:
    """Return a conversation's messages.

    Args:
        prompt: The conversation; a string is one message of the user.
        path: Where the messages stand in their request, for errors.

    Raises:
        InvalidRequest: It has none of the forms that `qwire.client.prompt.Prompt` tells of.
    """
    if isinstance(prompt, str):
        return [ChatMessage(Role.USER, prompt)]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidRequest.of(path, f"a string or a sequence of messages is needed, got {type(prompt).__name__}")
    return [_message(message, f"{path}[{position}]") for position, message in enumerate(prompt)]


def tool_of(tool: Tool | Mapping[str, Any], path: str) -> Tool:
    """Return a tool, which may be written as OpenAI's API has it: `{"type": "function", "function": {...}}`.

    Raises:
        InvalidRequest: It is neither a Tool nor such a mapping.
    """
    if isinstance(tool, Tool):
        return tool
    function: object = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
    if not isinstance(function, Mapping) or set(tool) != {"type", "function"}:
        raise InvalidRequest.of(path, 'a Tool or {"type": "function", "function": {...}} is needed')
    fields = cast("Mapping[str, Any]", function)
    unknown = fields.keys() - _FUNCTION_KEYS
    if unknown or "name" not in fields:
        raise InvalidRequest.of(path, f"a function has a name, a description and parameters, got {sorted(fields)}")
    return Tool(fields["name"], fields.get("description", ""), fields.get("parameters"))


def json_text(value: object, path: str) -> str:
    """Return a mapping as JSON.

    Raises:
        InvalidRequest: It is none, or holds what JSON cannot.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest.of(path, f"a mapping is needed, got {type(value).__name__}")
    try:
        return json.dumps(dict(cast("Mapping[str, Any]", value)), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequest.of(path, f"not JSON: {error}") from error


def _message(message: Message, path: str) -> ChatMessage:
    if isinstance(message, ChatMessage):
        role = _role(message.role, path)
        return replace(message, role=role, tool_calls=_calls(message.tool_calls, path))
    if isinstance(message, Mapping):
        return _mapping(message, path)
    if isinstance(message, tuple) and len(message) == 2:  # pyright: ignore[reportUnnecessaryIsInstance]  # noqa: PLR2004 - callers without a type checker; a pair
        return ChatMessage(_role(message[0], path), message[1])
    raise InvalidRequest.of(path, f"a ChatMessage, mapping or (role, text) is needed, got {type(message).__name__}")


def _mapping(message: Mapping[str, Any], path: str) -> ChatMessage:
    keys = set(message)
    texts = keys & _TEXT_KEYS
    if "role" not in keys or keys - _MESSAGE_KEYS or not (len(texts) == 1 or (not texts and "tool_calls" in keys)):
        raise InvalidRequest.of(
            path,
            "the keys role and content (or text), reasoning (or reasoning_content), tool_calls and tool_call_id are"
            f" known, got {sorted(keys)}",
        )
    thoughts = [thought for key in sorted(keys & _REASONING_KEYS) if (thought := message[key]) is not None]
    if len(thoughts) > 1 and thoughts[0] != thoughts[1]:
        raise InvalidRequest.of(path, "reasoning and reasoning_content mean the same, and differ")
    text = message.get("content", message.get("text"))
    calls = _calls(message.get("tool_calls") or (), path)
    if text is None and calls:
        text = ""  # what others say where the model said nothing beside its calls
    return ChatMessage(
        _role(message["role"], path),
        cast("str", text),
        calls,
        message.get("tool_call_id", ""),
        thoughts[0] if thoughts else "",  # null is what others say where there was none
    )


def _calls(calls: object, path: str) -> tuple[ToolCall, ...]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise InvalidRequest.of(f"{path}.tool_calls", f"a sequence is needed, got {type(calls).__name__}")
    entries = cast("Sequence[object]", calls)
    return tuple(_call(call, f"{path}.tool_calls[{position}]") for position, call in enumerate(entries))


def _call(call: object, path: str) -> ToolCall:
    match call:
        case ToolCall():
            return call
        case {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments, **more}, **others}:
            if more or others:
                raise InvalidRequest.of(path, f"unknown keys: {sorted([*more, *others])}")
            text = arguments if isinstance(arguments, str) else json_text(arguments, f"{path}.arguments_json")
            return ToolCall(call_id, name, text)
        case _:
            raise InvalidRequest.of(
                path,
                'a ToolCall or {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}} is needed',
            )


def _role(role: str | Role, path: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        allowed = ", ".join(known.value for known in Role)
        raise InvalidRequest.of(f"{path}.role", f"must be one of {allowed}; got {role!r}") from None
