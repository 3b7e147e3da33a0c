"""Control tokens: what a model's added tokens are, and how text that merely looks like one is told apart from them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from qwire.text.errors import UnusableTokenizer

_MARKER_CODES = range(0xE000, sys.maxunicode + 1)
"""From the first private-use character on: more characters than a request's bytes have room for."""

_USUAL_MARKERS = "".join(map(chr, _MARKER_CODES[:4]))
"""Tried first, since looking for one character is far cheaper than collecting all that occur."""


class ControlTokens:
    """The added tokens of a tokenizer, special or not: no text of a caller ever becomes one of them.

    A chat template joins its own control tokens with the callers' texts into one string, in which both look the same.
    So the texts are shielded first: a marker, one character that occurs nowhere in them, goes in after each character
    that a control token begins with and before each that one ends with, and after a text that is the middle of one.
    Whatever the template then puts beside a text, a control token in the result is one that the template wrote, since
    no control token contains the marker. Splitting takes the markers out again, so that everything between two control
    tokens is encoded as if they had never been.

    Args:
        ids: The id of each added token's text; each of two characters or more.

    Raises:
        UnusableTokenizer: An added token is shorter, so that it cannot be told apart from text.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        short = [text for text in ids if len(text) < 2]  # noqa: PLR2004 - a marker fits between two characters
        if short:
            raise UnusableTokenizer(f"an added token of one character cannot be told apart from text: {short[0]!r}")
        self._ids = dict(ids)
        self._first = {text[0] for text in ids}
        self._last = {text[-1] for text in ids}
        # At one place the longest wins, as in the tokenizer itself.
        longest_first = sorted(ids, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def id_of(self, text: str) -> int | None:
        """Return the id of a control token; None = the text is none."""
        return self._ids.get(text)

    def marker(self, texts: Sequence[str]) -> str:
        """Return a character that occurs in none of the texts and in no control token, nor does its JSON escape."""
        for character in _USUAL_MARKERS:
            if not any(form in text for text in (*texts, *self._ids) for form in (character, _escape(character))):
                return character
        taken = set[str]().union(*texts, *self._ids)

        return next(
            character
            for character in map(chr, _MARKER_CODES)
            if character not in taken and not any(_escape(character) in text for text in texts)
        )

    def shield(self, text: str, marker: str) -> str:
        """Return the text with markers in it, so that no part of it can be part of a control token."""
        for character in self._first:
            text = text.replace(character, character + marker)
        for character in self._last:
            text = text.replace(character, marker + character)
        core = text.strip()
        if core and any(core in control for control in self._ids):
            text = text.replace(core, core + marker)
        return text

    def split(self, rendered: str, marker: str) -> Iterator[str | int]:
        """Yield a rendered template's control tokens by id, and the text between them without markers; never empty."""
        for piece in self._pattern.split(rendered):
            token_id = self._ids.get(piece)
            if token_id is not None:
                yield token_id
            elif text := piece.replace(marker, "").replace(_escape(marker), ""):
                yield text


def _escape(character: str) -> str:
    """Return how a template writes a character that dumps JSON in ASCII."""
    return json.dumps(character)[1:-1]
