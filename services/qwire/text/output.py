"""The text of one output: detokenised, and cut at the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwire.text.detokenizer import Detokenizer
from qwire.text.stop import StopMatcher


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """What some more tokens gave.

    Attributes:
        text: The text; it may lag behind the tokens.
        tokens: How many of them belong to the output: all, or those up to the one that completed the stop string.
        stop_string: The stop string that appeared.
    """

    text: str
    tokens: int
    stop_string: str | None = None


class OutputText:
    """Turns output tokens into output text.

    What has come out after n tokens depends on these tokens only, not on how they were grouped: an output is resumed
    by pushing the tokens that exist and leaving out the text that they give.

    Args:
        detokenizer: A new one.
        matcher: A new one.
        min_output_tokens: A stop string counts where the token that completes it is this one or a later one.
    """

    def __init__(self, detokenizer: Detokenizer, matcher: StopMatcher, min_output_tokens: int = 0) -> None:
        self._detokenizer = detokenizer
        self._matcher = matcher
        self._min_output_tokens = min_output_tokens
        self._tokens = 0

    def push(self, token_ids: Sequence[int]) -> OutputPiece:
        """Take the next tokens. Once a stop string appeared, nothing may follow."""
        pieces: list[str] = []
        for position, token_id in enumerate(token_ids):
            self._tokens += 1
            characters = self._detokenizer.push(token_id)
            honour = self._tokens >= self._min_output_tokens
            text, stop_string = self._matcher.push(characters, honour=honour)
            pieces.append(text)
            if stop_string is not None:
                return OutputPiece("".join(pieces), position + 1, stop_string)
        return OutputPiece("".join(pieces), len(token_ids))

    def finish(self) -> str:
        """Return the rest of the text: no token follows. An incomplete character in it completes no stop string."""
        text, _ = self._matcher.push(self._detokenizer.finish(), honour=False)
        return text + self._matcher.finish()
