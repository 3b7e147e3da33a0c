"""Finds where a tool call ends in text that comes in pieces, or that it is none."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from qwire.text.call_text import WrittenCall, parse_call

CALL_OPEN = "<tool_call>"

_STRING = re.compile(r'(?:[^"\\\n]|\\.)*')
"""The rest of a JSON string, as far as it is there; no string goes beyond its line."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a call is set apart from the answer.

    Attributes:
        opening: What stands before it.
        closing: What stands behind it.
        outside: JSON outside its strings, where no part of the closing tag can stand.
        strict: Other things stand between these tags, too: a call begins with its name, which is that of a tool.
    """

    opening: str
    closing: str
    outside: re.Pattern[str]
    strict: bool = False


CALL_FORMS = (
    CallForm(CALL_OPEN, "</tool_call>", re.compile(r'[^"<]*')),
    # Qwen2.5-Coder models are told of the tags as the others are, and write this.
    CallForm("```json\n", "```", re.compile(r'[^"`]*'), strict=True),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What some text is.

    Attributes:
        end: How many characters it is about.
        call: The call that they are, closing tag included; None = they are no part of a call.
    """

    end: int
    call: WrittenCall | None = None


class CallScanner:
    """Follows what may be a call, from behind its opening tag. Time is linear in the text.

    A call is one JSON object. Its closing tag counts outside its strings only, and nothing that begins like the tag can
    stand there otherwise; so what is no call is known as soon as it goes wrong, not where it ends.

    Args:
        form: How the call was opened.
        tools: Names of the tools that may be called.
    """

    def __init__(self, form: CallForm, tools: Collection[str]) -> None:
        self.form = form
        self._tools = tools
        self._scanned = 0
        self._begun = False
        self._in_string = False
        self._keyed = False

    def scan(self, text: str) -> Verdict | None:
        """Judge everything that came behind the opening tag so far; None = more is needed."""
        if not self._begun:
            begin = len(text) - len(text.lstrip())
            if begin == len(text):
                return None
            if text[begin] != "{":
                return Verdict(0)  # so that prose about the tag does not wait for a call's end
            self._begun = True
        while self._scanned < len(text):
            before = self._scanned, self._in_string
            verdict = self._string(text) if self._in_string else self._outside(text)
            if verdict is not None or before == (self._scanned, self._in_string):
                return verdict
        return None

    def _outside(self, text: str) -> Verdict | None:
        at = self._scanned = _end(self.form.outside, text, self._scanned)
        closing = self.form.closing
        if at == len(text) or (len(text) - at < len(closing) and closing.startswith(text[at:])):
            return None
        if text[at] == '"':
            self._scanned, self._in_string = at + 1, True
            return None
        if not text.startswith(closing, at):
            return Verdict(at)
        call = parse_call(text[:at])
        known = call is not None and (not self.form.strict or call.name in self._tools)
        return Verdict(at + len(closing), call if known else None)

    def _string(self, text: str) -> Verdict | None:
        at = self._scanned = _end(_STRING, text, self._scanned)
        if at == len(text) or text[at:] == "\\":
            return None
        misnamed = self.form.strict and not self._keyed and not text.endswith('"name', 0, at)
        if text[at] != '"' or misnamed:
            return Verdict(at)
        self._scanned, self._in_string, self._keyed = at + 1, False, True
        return None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
