"""Turns the input of a spec or of a count into a Prompt."""

from __future__ import annotations

from dataclasses import replace

from qwire.engine.protocol import ModelCard
from qwire.rpc.errors import FieldReason
from qwire.rpc.fields import FieldChecker
from qwire.rpc.reasoning import thinking_of
from qwire.rpc.tools import CallHistory, tools_of
from qwire.text.abilities import TextAbilities
from qwire.text.request import ChatMessage, ChatPrompt, Prompt, Role, TextPrompt, TokenPrompt
from qwire.text.tool import Tool
from qwire.v1 import generate_pb2
from qwire.v1 import types_pb2 as pb

_ROLES = {
    pb.ROLE_SYSTEM: Role.SYSTEM,
    pb.ROLE_USER: Role.USER,
    pb.ROLE_ASSISTANT: Role.ASSISTANT,
    pb.ROLE_TOOL: Role.TOOL,
}
_NO_TOOLS = "the model has no tools capability"
_NO_REASONING = "the model has no reasoning capability"

_Message = pb.GenerationSpec | generate_pb2.CountTokensRequest

_REFUSED = TextPrompt("")
"""Stands for an input with violations; it goes nowhere, since they are raised before it is used."""


class PromptConverter:
    """Converts inputs for one model.

    Args:
        checker: Where violations are noted.
        card: The model.
        path: Where the message with the input is in its request; empty = it is the request.
        abilities: What the model takes beyond plain text.
    """

    def __init__(self, checker: FieldChecker, card: ModelCard, path: str, abilities: TextAbilities) -> None:
        self._checker = checker
        self._card = card
        self._prefix = f"{path}." if path else ""
        self._abilities = abilities

    def of_spec(self, spec: pb.GenerationSpec) -> Prompt:
        """Return a spec's prompt, unless a violation was noted."""
        return self._prompt(spec)

    def of_count(self, request: generate_pb2.CountTokensRequest) -> Prompt:
        """Return what to count, unless a violation was noted."""
        return self._prompt(request)

    def _prompt(self, message: _Message) -> Prompt:
        tools, thinking = self._tools(message), self._thinking(message)
        if isinstance(message, pb.GenerationSpec) and message.HasField("tokens"):
            return self._tokens(message.tokens)
        match message.WhichOneof("input"):
            case "chat":
                return self._chat(message.chat, tools, thinking=thinking)
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

    def _tools(self, message: _Message) -> tuple[Tool, ...]:
        """Return the tools on offer, unless a violation was noted."""
        path = f"{self._prefix}tools"
        if not message.HasField("tools") or not self._admits(message, path, "tools", able=self._abilities.tools):
            return ()
        return tools_of(self._checker, message.tools, path)

    def _thinking(self, message: _Message) -> bool | None:
        """Return whether the model is to think, unless a violation was noted; None = its own default."""
        path = f"{self._prefix}reasoning"
        able = self._abilities.thinking
        if not message.HasField("reasoning") or not self._admits(message, path, "reasoning", able=able):
            return None
        return thinking_of(self._checker, message.reasoning, path, self._abilities)

    def _admits(self, message: _Message, path: str, capability: str, *, able: bool) -> bool:
        if not able:
            self._checker.unsupported(path, f"the model has no {capability} capability")
        elif message.WhichOneof("input") != "chat":
            self._checker.refuse(path, "needs a conversation: set chat")
        else:
            return True
        return False

    def _chat(self, chat: pb.ChatInput, tools: tuple[Tool, ...], *, thinking: bool | None) -> Prompt:
        path = f"{self._prefix}chat"
        self._checker.only_known(chat, path)
        if not self._abilities.chat:
            self._checker.unsupported(path, "the model has no chat template")
        if not chat.messages:
            self._checker.refuse(f"{path}.messages", "at least one message is required")
            return _REFUSED
        # Each message takes a token or more, so this bounds the work below by the model, not by the message's size.
        if self._too_long(len(chat.messages), f"{path}.messages"):
            return _REFUSED
        calls = CallHistory(self._checker)
        messages = [
            self._message(message, f"{path}.messages[{i}]", i, calls) for i, message in enumerate(chat.messages)
        ]
        last = len(chat.messages) - 1
        if chat.messages[last].role in {pb.ROLE_SYSTEM, pb.ROLE_ASSISTANT}:
            self._checker.refuse(f"{path}.messages[{last}].role", "the last message must be from the user or a tool")
        return ChatPrompt(tuple(messages), tools, thinking)

    def _message(self, message: pb.ChatMessage, path: str, index: int, calls: CallHistory) -> ChatMessage:
        check = self._checker
        check.only_known(message, path)
        if message.role not in _ROLES:
            check.refuse(f"{path}.role", "must be one of ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT and ROLE_TOOL")
        elif message.role == pb.ROLE_SYSTEM and index > 0:
            check.refuse(f"{path}.role", "ROLE_SYSTEM is only allowed as the first message")
        if not message.text and not message.tool_calls:
            check.refuse(f"{path}.text", "must not be empty")
        if message.reasoning:
            self._check_reasoning(message, path)
        said = ChatMessage(_ROLES.get(message.role, Role.USER), message.text, reasoning=message.reasoning)
        if not self._abilities.tools:
            self._refuse_tools(message, path)
            return said
        past = calls.calls(message, path)
        answered = calls.answered(message, path)
        return replace(said, tool_calls=past, tool_call_id=message.tool_call_id, tool_name=answered)

    def _check_reasoning(self, message: pb.ChatMessage, path: str) -> None:
        if not self._abilities.thinking:
            self._checker.unsupported(f"{path}.reasoning", _NO_REASONING)
        elif message.role != pb.ROLE_ASSISTANT:
            self._checker.refuse(f"{path}.reasoning", "is only allowed with ROLE_ASSISTANT")

    def _refuse_tools(self, message: pb.ChatMessage, path: str) -> None:
        """Note what a model without tools cannot take."""
        if message.tool_calls:
            self._checker.unsupported(f"{path}.tool_calls", _NO_TOOLS)
        if message.tool_call_id:
            self._checker.unsupported(f"{path}.tool_call_id", _NO_TOOLS)
        if message.role == pb.ROLE_TOOL:
            self._checker.unsupported(f"{path}.role", _NO_TOOLS)

    def _too_long(self, count: int, path: str) -> bool:
        limit = self._card.context_tokens
        if count > limit:
            self._checker.refuse(path, f"the model's context holds {limit} tokens", FieldReason.CONTEXT_LENGTH)
        return count > limit
