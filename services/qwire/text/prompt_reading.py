"""A prompt as the model reads it, told part by part."""

from __future__ import annotations

from collections.abc import Iterator

from qwire.engine.chunk import TokenLogprobs
from qwire.text.detokenizer import Detokenizer
from qwire.text.event import PromptRead

_PART_TOKENS = 1024
"""Of one event. A token is hundreds of bytes of text at most, and seldom more than a few."""


class PromptReading:
    """Tells a prompt's tokens, once each and in order, with their text or log-probabilities as asked.

    Args:
        token_ids: The prompt.
        detokenizer: A new one that shows control tokens; None = the text is not told.
        scored: Whether log-probabilities are told: then each token waits for its own.
    """

    def __init__(self, token_ids: tuple[int, ...], detokenizer: Detokenizer | None, *, scored: bool) -> None:
        self._token_ids = token_ids
        self._detokenizer = detokenizer
        self._scored = scored
        self._told = 0

    def begin(self) -> Iterator[PromptRead]:
        """Yield what can be told before the engine is asked."""
        if self._detokenizer is not None and not self._scored:
            while self._told < len(self._token_ids):
                yield self._next(_PART_TOKENS)

    def advance(self, logprobs: tuple[TokenLogprobs | None, ...]) -> Iterator[PromptRead]:
        """Yield the next tokens, one for each record."""
        if logprobs:
            yield self._next(len(logprobs), logprobs)

    def _next(self, tokens: int, logprobs: tuple[TokenLogprobs | None, ...] = ()) -> PromptRead:
        token_ids = self._token_ids[self._told : self._told + tokens]
        self._told += len(token_ids)
        text = ""
        if self._detokenizer is not None:
            text = "".join(map(self._detokenizer.push, token_ids))
            if self._told == len(self._token_ids):
                text += self._detokenizer.finish()
        return PromptRead(text, token_ids, logprobs)
