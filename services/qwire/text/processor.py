"""Text of one model: prompts to token ids, and output token ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qwire.engine.constraint import Constraint
from qwire.engine.errors import InvalidRequest
from qwire.text.abilities import TextAbilities
from qwire.text.call_scanner import CALL_OPEN
from qwire.text.detokenizer import Detokenizer
from qwire.text.output import OutputText
from qwire.text.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from qwire.text.splitter import THINK_CLOSE, THINK_OPEN, OutputSplitter, Splitter
from qwire.text.stop import StopMatcher
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer
from qwire.text.tool import TextMap

_COMPOSITION = 4
"""The most characters that Unicode's canonical composition (NFC) makes one of: a letter with three marks."""

_TAIL_TOKENS = 16
"""Enough to hold `<think>` and a line break at the end of a prompt, even spelled letter by letter."""


class TextProcessor:
    """Everything of a model that turns text into tokens and back. Safe to use from several threads.

    Args:
        tokenizer: The model's tokenizer.
        template: The model's chat template; None = it has none and takes no conversations.

    Attributes:
        abilities: What the model takes and says beyond plain text.
    """

    def __init__(self, tokenizer: QwenTokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        shows = tokenizer.shows
        self.abilities = TextAbilities(
            chat=template is not None,
            tools=template is not None and template.has_tools and shows(CALL_OPEN),
            thinking=template is not None and template.has_thinking and shows(THINK_OPEN) and shows(THINK_CLOSE),
            thinking_switch=template is not None and template.has_thinking_switch,
        )
        self._end_of_thinking = tuple(tokenizer.encode_rendered(f"\n{THINK_CLOSE}\n\n", tokenizer.control.marker([])))

    @classmethod
    def from_folder(cls, folder: Path) -> TextProcessor:
        """Read tokenizer.json, and chat_template.jinja or tokenizer_config.json, of a model's folder.

        Raises:
            UnusableTokenizer: One of them cannot be used.
        """
        return cls(QwenTokenizer.from_folder(folder), ChatTemplate.from_folder(folder))

    @property
    def has_chat_template(self) -> bool:
        """Whether the model takes conversations."""
        return self.abilities.chat

    @property
    def end_of_thinking(self) -> tuple[int, ...]:
        """The tokens that end a thinking which does not end itself."""
        return self._end_of_thinking

    def thinks(self, prompt: Prompt, prompt_token_ids: Sequence[int]) -> bool:
        """Return whether the answer to a prompt is to begin with thinking."""
        if not isinstance(prompt, ChatPrompt) or prompt.thinking is False or not self.abilities.thinking:
            return False
        return not self._tail(prompt_token_ids).endswith(THINK_CLOSE.encode())

    def constrained(self, constraint: Constraint, prompt: Prompt, prompt_token_ids: Sequence[int]) -> Constraint:
        """Return the constraint of the answer to a prompt, which begins after its thinking.

        Raises:
            InvalidRequest: The model thinks, and no single token tells where it begins or stops.
        """
        if not self.thinks(prompt, prompt_token_ids):
            return constraint
        marker = self._tokenizer.control.marker([])
        tags = [self._tokenizer.encode_rendered(tag, marker) for tag in (THINK_OPEN, THINK_CLOSE)]
        if any(len(token_ids) != 1 for token_ids in tags):
            raise InvalidRequest("constraint", "is not possible where this model thinks; turn reasoning off")
        (opening,), (closing,) = tags
        opened = self._opens_thinking(prompt_token_ids)
        return replace(constraint, after_token_id=closing, opening_token_id=None if opened else opening)

    @property
    def vocabulary_tokens(self) -> int:
        """One more than the highest token id that stands for something."""
        return self._tokenizer.vocabulary_tokens

    @property
    def token_characters(self) -> int:
        """The most characters of a text that one token can stand for."""
        return _COMPOSITION * max(map(len, self._tokenizer.token_bytes))

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids. Control tokens in text of the caller are encoded as ordinary characters.

        Raises:
            InvalidRequest: `chat`: the model has no chat template; `chat.messages`: the template refuses them;
                `chat.messages[i].text`, `chat.messages[i].reasoning`, `chat.messages[i].tool_calls[j]`,
                `tools.tools[i]` or `text`: it has a surrogate, which no text can contain.
        """
        match prompt:
            case ChatPrompt():
                return self._encode_chat(prompt)
            case TextPrompt(text):
                _check_encodable(text, "text")
                return self._tokenizer.encode(text)
            case TokenPrompt(token_ids):
                return list(token_ids)

    def characters(self, prompt: Prompt) -> int:
        """Return how many characters the prompt's text has; 0 for token ids."""
        match prompt:
            case ChatPrompt():
                return sum(map(len, prompt.texts()))
            case TextPrompt(text):
                return len(text)
            case TokenPrompt():
                return 0

    def prompt_detokenizer(self) -> Detokenizer:
        """Return a new detokenizer that shows control tokens as their text, as a prompt's template wrote them."""
        return Detokenizer(self._tokenizer.shown_bytes)

    def output_text(
        self,
        stop_strings: Sequence[str],
        min_output_tokens: int,
        *,
        splitter: Splitter | None = None,
        budget_tokens: int | None = None,
    ) -> OutputText:
        """Return a new output's text."""
        detokenizer, matcher = Detokenizer(self._tokenizer.token_bytes), StopMatcher(stop_strings)
        return OutputText(detokenizer, matcher, min_output_tokens, splitter=splitter, budget_tokens=budget_tokens)

    def splitter(self, prompt: Prompt, prompt_token_ids: Sequence[int], *, fragments: bool = False) -> OutputSplitter:
        """Return a new splitter for what follows a prompt. Only a conversation's answer has thinking and calls."""
        if not isinstance(prompt, ChatPrompt):
            return OutputSplitter()
        thinking = self.abilities.thinking
        opened = thinking and self._opens_thinking(prompt_token_ids)
        tools = [tool.name for tool in prompt.tools]
        return OutputSplitter(thinking=thinking, opened=opened, tools=tools, fragments=fragments)

    def _opens_thinking(self, prompt_token_ids: Sequence[int]) -> bool:
        return self._tail(prompt_token_ids).endswith(THINK_OPEN.encode())

    def _tail(self, prompt_token_ids: Sequence[int]) -> bytes:
        token_bytes = self._tokenizer.token_bytes
        return b"".join(token_bytes[token_id] for token_id in prompt_token_ids[-_TAIL_TOKENS:]).rstrip()

    def _encode_chat(self, prompt: ChatPrompt) -> list[int]:
        if self._template is None:
            raise InvalidRequest("chat", "the model has no chat template")
        _check_conversation(prompt)
        control = self._tokenizer.control
        marker = control.marker([self._template.source, *prompt.texts()])
        shielded = prompt.mapped(lambda text: control.shield(text, marker))
        rendered = self._template.render(shielded.messages, shielded.tools, thinking=prompt.thinking)
        return self._tokenizer.encode_rendered(rendered, marker)


def _check_conversation(prompt: ChatPrompt) -> None:
    for index, message in enumerate(prompt.messages):
        path = f"chat.messages[{index}]"
        _check_encodable(message.text, f"{path}.text")
        _check_encodable(message.reasoning, f"{path}.reasoning")
        for position, call in enumerate(message.tool_calls):
            call.mapped(_checker(f"{path}.tool_calls[{position}]"))
    for index, tool in enumerate(prompt.tools):
        tool.mapped(_checker(f"tools.tools[{index}]"))


def _checker(field: str) -> TextMap:
    def check(text: str) -> str:
        _check_encodable(text, field)
        return text

    return check


def _check_encodable(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, f"has a surrogate at character {error.start}, which is no text") from error
