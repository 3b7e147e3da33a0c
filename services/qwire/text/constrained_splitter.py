"""Tells thinking and answer apart where the answer has to match a constraint."""

from __future__ import annotations

from qwire.text.splitter import THINK_CLOSE, Channel, Part, Said


class ConstrainedSplitter:
    """Splits an output where its constraint begins: at the tokens of the tags, whatever is spelled in letters.

    The answer comes out as it is, line breaks behind the tag included: all of it is what matches. Line breaks after the
    opening tag and before the closing one belong to the tag, as in `OutputSplitter`. There are no tools beside a
    constraint, and so no calls.

    Args:
        opening_token_id: The token that opens the thinking, as the first one of the output; None = no token does.
        closing_token_id: The token that closes it; None = all of the output is the answer. Without an opening one the
            output begins with thinking.
    """

    def __init__(self, opening_token_id: int | None = None, closing_token_id: int | None = None) -> None:
        self._opening_token_id = opening_token_id
        self._closing_token_id = closing_token_id
        self._starts = opening_token_id is not None and closing_token_id is not None
        self._thinks = closing_token_id is not None and not self._starts
        self._begun = False  # something was thought beside line breaks
        self._held = ""  # line breaks that may turn out to stand before the tag

    @property
    def plain(self) -> bool:
        """See `Splitter.plain`."""
        return not (self._starts or self._thinks)

    @property
    def thinking(self) -> bool:
        """See `Splitter.thinking`."""
        return self._thinks

    @property
    def may_call(self) -> bool:
        """See `Splitter.may_call`: never."""
        return False

    @property
    def in_call(self) -> bool:
        """See `Splitter.in_call`: never."""
        return False

    def push(self, text: str, token_id: int | None = None) -> list[Part]:
        """See `Splitter.push`."""
        if self._starts:
            self._starts = False
            self._thinks = token_id == self._opening_token_id
            if self._thinks:
                return []
        if not self._thinks:
            return [Said(Channel.TEXT, text)] if text else []
        closes = token_id == self._closing_token_id
        self._thinks = not closes
        return self._think(text.removesuffix(THINK_CLOSE) if closes else text)

    def finish(self) -> list[Part]:
        """See `Splitter.finish`."""
        held, self._held = self._held, ""
        return [Said(Channel.REASONING, held)] if held and self._thinks else []

    def _think(self, text: str) -> list[Part]:
        thought = self._held + text if self._begun else text.lstrip("\n")
        certain = thought.rstrip("\n")
        self._begun = self._begun or bool(certain)
        self._held = thought[len(certain) :]
        return [Said(Channel.REASONING, certain)] if certain else []
