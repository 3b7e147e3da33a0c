"""What a model continues: the forms that callers may write it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qwire.client.tool import ToolCall


class Role(Enum):
    """Who speaks in a chat message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    """The result of a tool that the model called."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        text: What is said. Control tokens of the model inside it reach the model as ordinary characters. May be empty
            only beside `tool_calls`.
        tool_calls: Calls that the model asked for in this turn; only with `Role.ASSISTANT`.
        tool_call_id: The id of the call that this message answers; only with `Role.TOOL`, where it is needed.
        reasoning: The thinking that preceded what the assistant says, without its tags: given back with the results of
            the calls that it led to, it lets the model go on from there. The model's chat template says which messages
            keep it: Qwen3's, those after the last one of the user. Only with `Role.ASSISTANT`, and a model with the
            reasoning capability. Empty = none.
    """

    role: Role
    text: str
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""
    reasoning: str = ""

    @classmethod
    def result_of(cls, call: ToolCall, text: str) -> ChatMessage:
        """Return the message that answers a call."""
        return cls(Role.TOOL, text, tool_call_id=call.id)


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue as it is, without a chat template. Not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue as they are. At least one."""

    ids: Sequence[int]


Message = ChatMessage | Mapping[str, Any] | tuple[str | Role, str]
"""A message: a `ChatMessage`, `{"role": "user", "content": "..."}` (or `text` for `content`), or `("user", "...")`.
A mapping may have `tool_calls` and `tool_call_id` as OpenAI's API has them, and `reasoning` (or `reasoning_content`,
as OpenAI's format is commonly extended)."""

Prompt = str | Sequence[Message] | TextPrompt | TokenPrompt
"""What to continue: a string is one user message; a sequence is a conversation, oldest message first, the last one from
the user or a tool; `TextPrompt` and `TokenPrompt` go to the model without a chat template."""
