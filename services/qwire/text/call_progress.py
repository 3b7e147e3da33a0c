"""What can be told of a call before it is complete: its name, and its arguments as they come."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPACE = r"[ \t\n\r]{0,16}"
_BEGINNING = re.compile(
    rf'{_SPACE}\{{{_SPACE}"name"{_SPACE}:{_SPACE}"(?P<name>[A-Za-z0-9_-]{{1,64}})"{_SPACE},'
    rf'{_SPACE}"arguments"{_SPACE}:{_SPACE}(?=\{{)'
)
_LONGEST = 256
"""No beginning has as many characters: behind that many there is none to come."""


@dataclass(frozen=True, slots=True)
class CallFragment:
    """More of what may become a call.

    Attributes:
        arguments_json: Some of its arguments, from where the last fragment ended.
        name: The tool's name, with the first fragment; empty = told before.
        retracted: It is no call: what was told of it is void, and comes as text.
    """

    arguments_json: str = ""
    name: str = ""
    retracted: bool = False


class CallProgress:
    """Follows what may be a call, from behind its opening tag. Time is linear in the text.

    Only a call whose name comes first, as models write it, can be told of before it is complete. Its arguments are told
    as they stand in the output, up to the end of their object: all that is told is a beginning of the arguments that
    `parse_call` returns, if it finds a call.

    Attributes:
        name: The tool's name; empty = it is not known, or not yet.
    """

    def __init__(self) -> None:
        self.name = ""
        self._at = 0
        self._over = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def advance(self, text: str) -> CallFragment | None:
        """Return what is new; None = nothing.

        Args:
            text: Everything behind the opening tag so far.
        """
        named = self.name
        if not named and not self._over:
            self._begin(text)
        if not self.name or self._over:
            return None
        start, self._at = self._at, self._follow(text)
        arguments = text[start : self._at]
        return CallFragment(arguments, "" if named else self.name) if arguments else None

    def _begin(self, text: str) -> None:
        found = _BEGINNING.match(text)
        if found is not None:
            self.name, self._at = found["name"], found.end()
        self._over = found is None and len(text) >= _LONGEST

    def _follow(self, text: str) -> int:
        """Return how far the arguments go in the text."""
        for at in range(self._at, len(text)):
            character = text[at]
            if self._in_string:
                closes = character == '"' and not self._escaped
                self._escaped = character == "\\" and not self._escaped
                self._in_string = not closes
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._over = True
                    return at + 1
        return len(text)
