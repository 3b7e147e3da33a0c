"""What a model continues: the forms that callers may write it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """Who speaks in a chat message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        text: What is said. Control tokens of the model inside it reach the model as ordinary characters.
    """

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue as it is, without a chat template. Not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue as they are. At least one."""

    ids: Sequence[int]


Message = ChatMessage | Mapping[str, str] | tuple[str | Role, str]
"""A message: a `ChatMessage`, `{"role": "user", "content": "..."}` (or `text` for `content`), or `("user", "...")`."""

Prompt = str | Sequence[Message] | TextPrompt | TokenPrompt
"""What to continue: a string is one user message; a sequence is a conversation, oldest message first, the last one from
the user; `TextPrompt` and `TokenPrompt` go to the model without a chat template."""
