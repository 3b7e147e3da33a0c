"""Turns the input of a spec or of a count into a Prompt."""

from __future__ import annotations

from qwire.engine.protocol import ModelCard
from qwire.rpc.errors import FieldReason
from qwire.rpc.fields import FieldChecker
from qwire.text.request import ChatMessage, ChatPrompt, Prompt, Role, TextPrompt, TokenPrompt
from qwire.v1 import generate_pb2
from qwire.v1 import types_pb2 as pb

_ROLES = {pb.ROLE_SYSTEM: Role.SYSTEM, pb.ROLE_USER: Role.USER, pb.ROLE_ASSISTANT: Role.ASSISTANT}

_REFUSED = TextPrompt("")
"""Stands for an input with violations; it goes nowhere, since they are raised before it is used."""


class PromptConverter:
    """Converts inputs for one model.

    Args:
        checker: Where violations are noted.
        card: The model.
        path: Where the message with the input is in its request; empty = it is the request.
        has_chat_template: Whether the model takes conversations.
    """

    def __init__(self, checker: FieldChecker, card: ModelCard, path: str, *, has_chat_template: bool) -> None:
        self._checker = checker
        self._card = card
        self._prefix = f"{path}." if path else ""
        self._has_chat_template = has_chat_template

    def of_spec(self, spec: pb.GenerationSpec) -> Prompt:
        """Return a spec's prompt, unless a violation was noted."""
        if spec.WhichOneof("input") == "tokens":
            return self._tokens(spec.tokens)
        return self._chat_or_text(spec)

    def of_count(self, request: generate_pb2.CountTokensRequest) -> Prompt:
        """Return what to count, unless a violation was noted."""
        return self._chat_or_text(request)

    def _chat_or_text(self, message: pb.GenerationSpec | generate_pb2.CountTokensRequest) -> Prompt:
        match message.WhichOneof("input"):
            case "chat":
                return self._chat(message.chat)
            case "text":
                if not message.text:
                    self._checker.refuse(f"{self._prefix}text", "must not be empty")
                return TextPrompt(message.text)
            case _:
                self._checker.refuse(f"{self._prefix}input", "is required: set one of its fields")
                return _REFUSED

    def _tokens(self, tokens: pb.TokenInput) -> Prompt:
        path = f"{self._prefix}tokens"
        self._checker.only_known(tokens, path)
        if not tokens.ids:
            self._checker.refuse(f"{path}.ids", "at least one token id is required")
        if self._too_long(len(tokens.ids), f"{path}.ids"):
            return _REFUSED
        self._checker.in_vocabulary(f"{path}.ids", tokens.ids, self._card.vocabulary_tokens)
        return TokenPrompt(tuple(tokens.ids))

    def _chat(self, chat: pb.ChatInput) -> Prompt:
        path = f"{self._prefix}chat"
        self._checker.only_known(chat, path)
        if not self._has_chat_template:
            self._checker.unsupported(path, "the model has no chat template")
        if not chat.messages:
            self._checker.refuse(f"{path}.messages", "at least one message is required")
            return _REFUSED
        # Each message takes a token or more, so this bounds the work below by the model, not by the message's size.
        if self._too_long(len(chat.messages), f"{path}.messages"):
            return _REFUSED
        messages = [self._message(message, f"{path}.messages[{i}]", i) for i, message in enumerate(chat.messages)]
        last = len(chat.messages) - 1
        if chat.messages[last].role in {pb.ROLE_SYSTEM, pb.ROLE_ASSISTANT}:
            self._checker.refuse(f"{path}.messages[{last}].role", "the last message must be from the user")
        return ChatPrompt(tuple(messages))

    def _message(self, message: pb.ChatMessage, path: str, index: int) -> ChatMessage:
        check = self._checker
        check.only_known(message, path)
        if message.tool_calls:
            check.unsupported(f"{path}.tool_calls", "the model has no tools capability")
        if message.tool_call_id:
            check.unsupported(f"{path}.tool_call_id", "the model has no tools capability")
        if message.role == pb.ROLE_TOOL:
            check.unsupported(f"{path}.role", "the model has no tools capability")
        elif message.role not in _ROLES:
            check.refuse(f"{path}.role", "must be one of ROLE_SYSTEM, ROLE_USER and ROLE_ASSISTANT")
        elif message.role == pb.ROLE_SYSTEM and index > 0:
            check.refuse(f"{path}.role", "ROLE_SYSTEM is only allowed as the first message")
        if not message.text and not message.tool_calls:
            check.refuse(f"{path}.text", "must not be empty")
        return ChatMessage(_ROLES.get(message.role, Role.USER), message.text)

    def _too_long(self, count: int, path: str) -> bool:
        limit = self._card.context_tokens
        if count > limit:
            self._checker.refuse(path, f"the model's context holds {limit} tokens", FieldReason.CONTEXT_LENGTH)
        return count > limit
