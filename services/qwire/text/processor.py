"""Text of one model: prompts to token ids, and output token ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qwire.engine.errors import InvalidRequest
from qwire.text.detokenizer import Detokenizer
from qwire.text.output import OutputText
from qwire.text.request import ChatMessage, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from qwire.text.stop import StopMatcher
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer

_COMPOSITION = 4
"""The most characters that Unicode's canonical composition (NFC) makes one of: a letter with three marks."""


class TextProcessor:
    """Everything of a model that turns text into tokens and back. Safe to use from several threads.

    Args:
        tokenizer: The model's tokenizer.
        template: The model's chat template; None = it has none and takes no conversations.
    """

    def __init__(self, tokenizer: QwenTokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._template = template

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
        return self._template is not None

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
                `chat.messages[i].text` or `text`: it has a surrogate, which no text can contain.
        """
        match prompt:
            case ChatPrompt(messages):
                return self._encode_chat(messages)
            case TextPrompt(text):
                _check_encodable(text, "text")
                return self._tokenizer.encode(text)
            case TokenPrompt(token_ids):
                return list(token_ids)

    def characters(self, prompt: Prompt) -> int:
        """Return how many characters the prompt's text has; 0 for token ids."""
        match prompt:
            case ChatPrompt(messages):
                return sum(len(message.text) for message in messages)
            case TextPrompt(text):
                return len(text)
            case TokenPrompt():
                return 0

    def output_text(self, stop_strings: Sequence[str], min_output_tokens: int) -> OutputText:
        """Return a new output's text."""
        return OutputText(Detokenizer(self._tokenizer.token_bytes), StopMatcher(stop_strings), min_output_tokens)

    def _encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        if self._template is None:
            raise InvalidRequest("chat", "the model has no chat template")
        for index, message in enumerate(messages):
            _check_encodable(message.text, f"chat.messages[{index}].text")
        control = self._tokenizer.control
        marker = control.marker([self._template.source, *(message.text for message in messages)])
        shielded = [replace(message, text=control.shield(message.text, marker)) for message in messages]
        return self._tokenizer.encode_rendered(self._template.render(shielded), marker)


def _check_encodable(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, f"has a surrogate at character {error.start}, which is no text") from error
