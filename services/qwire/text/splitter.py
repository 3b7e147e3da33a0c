"""Tells thinking, answer and tool calls apart in output text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from qwire.text.call_text import WrittenCall, parse_call

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
CALL_OPEN = "<tool_call>"

_STRING = re.compile(r'(?:[^"\\\n]|\\.)*')
"""The rest of a JSON string, as far as it is there; no string goes beyond its line."""


@dataclass(frozen=True, slots=True)
class _CallForm:
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


_FORMS = (
    _CallForm(CALL_OPEN, "</tool_call>", re.compile(r'[^"<]*')),
    # Qwen2.5-Coder models are told of the tags as the others are, and write this.
    _CallForm("```json\n", "```", re.compile(r'[^"`]*'), strict=True),
)


class Channel(Enum):
    """What a piece of text is."""

    TEXT = "text"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class Said:
    """Some text of a channel, never empty."""

    channel: Channel
    text: str


Part = Said | WrittenCall
"""What the splitter finds, in order."""


class _State(Enum):
    START = "start"
    THINKING = "thinking"
    ANSWER = "answer"
    CALL_START = "call start"
    CALL = "call"


class OutputSplitter:
    """Splits an output at its tags. What comes out after some text depends on this text only, not on its pieces.

    Thinking is what stands between `<think>` at the beginning of the output, or of the prompt's end, and `</think>`.
    A tool call is a JSON object between `<tool_call>` and `</tool_call>` in the answer, or one that names a tool in a
    code block of its own; anything else between them is text, tags included. Line breaks after a tag and before
    `</think>` belong to the tag.

    Args:
        thinking: Whether `<think>` may begin the output.
        opened: Whether the prompt ends with `<think>`, so that the output begins with thinking.
        tools: Names of the tools that may be called; without any, no tag of a call means anything.
    """

    def __init__(self, *, thinking: bool = False, opened: bool = False, tools: Collection[str] = ()) -> None:
        self._state = _State.THINKING if opened else _State.START if thinking else _State.ANSWER
        self._tools = frozenset(tools)
        self._forms = _FORMS if tools else ()
        self._held = ""
        # Of a call: its form, what has been looked at, whether that ends within a string, and whether it has a key.
        self._form = _FORMS[0]
        self._scanned = 0
        self._in_string = False
        self._keyed = False
        self._after_tag = opened
        self._parts: list[Part] = []

    @property
    def thinking(self) -> bool:
        """Whether what comes next is thinking."""
        return self._state is _State.THINKING

    @property
    def may_call(self) -> bool:
        """Whether there are tools to call."""
        return bool(self._forms)

    @property
    def in_call(self) -> bool:
        """Whether a call may be under way."""
        return self._state in {_State.CALL_START, _State.CALL}

    def push(self, text: str) -> list[Part]:
        """Take the next piece of text and return what is certain now."""
        self._held += text
        while self._held and self._step():
            pass
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[Part]:
        """Return what was held back: no more text comes. A call that is not complete is text."""
        text = self._form.opening + self._held if self.in_call else self._held
        channel = Channel.REASONING if self.thinking else Channel.TEXT
        self._held = ""
        return [Said(channel, text)] if text else []

    def _step(self) -> bool:
        """Take what can be taken of the text held; False = nothing more is certain."""
        if self._after_tag:
            self._held = self._held.lstrip("\n")
            self._after_tag = not self._held
            return bool(self._held)
        match self._state:
            case _State.START:
                return self._start()
            case _State.THINKING:
                return self._think()
            case _State.ANSWER:
                return self._answer()
            case _State.CALL_START:
                return self._start_call()
            case _State.CALL:
                return self._string() if self._in_string else self._outside()

    def _start(self) -> bool:
        begun = self._held.lstrip()
        if begun.startswith(THINK_OPEN):
            self._enter(_State.THINKING, begun[len(THINK_OPEN) :], after_tag=True)
        elif THINK_OPEN.startswith(begun):
            return False
        else:
            self._state = _State.ANSWER
        return True

    def _think(self) -> bool:
        end = self._held.find(THINK_CLOSE)
        if end >= 0:
            self._say(Channel.REASONING, self._held[:end].rstrip("\n"))
            self._enter(_State.ANSWER, self._held[end + len(THINK_CLOSE) :], after_tag=True)
            return True
        # Line breaks that may turn out to stand before the tag wait with it.
        certain = self._held[: len(self._held) - _begun(self._held, THINK_CLOSE)].rstrip("\n")
        self._say(Channel.REASONING, certain)
        self._held = self._held[len(certain) :]
        return False

    def _answer(self) -> bool:
        found = [(at, form) for form in self._forms if (at := self._held.find(form.opening)) >= 0]
        if found:
            begin, self._form = min(found, key=lambda one: one[0])
            self._say(Channel.TEXT, self._held[:begin])
            self._enter(_State.CALL_START, self._held[begin + len(self._form.opening) :])
            return True
        certain = len(self._held) - max((_begun(self._held, form.opening) for form in self._forms), default=0)
        self._say(Channel.TEXT, self._held[:certain])
        self._held = self._held[certain:]
        return False

    def _start_call(self) -> bool:
        body = self._held.lstrip()
        if not body:
            return False
        if body[0] != "{":
            self._refuse_call(0)  # so that prose about the tag does not wait for a call's end
            return True
        self._state, self._scanned, self._in_string, self._keyed = _State.CALL, 0, False, False
        return True

    def _outside(self) -> bool:
        closing = self._form.closing
        at = _end(self._form.outside, self._held, self._scanned)
        self._scanned = at
        if at == len(self._held):
            return False
        if self._held[at] == '"':
            self._scanned, self._in_string = at + 1, True
            return True
        if self._held.startswith(closing, at):
            self._end_call(at)
            return True
        if closing.startswith(self._held[at:]):
            return False
        self._refuse_call(at)
        return True

    def _string(self) -> bool:
        at = _end(_STRING, self._held, self._scanned)
        self._scanned = at
        if at == len(self._held) or self._held[at:] == "\\":
            return False
        misnamed = self._form.strict and not self._keyed and not self._held[:at].endswith('"name')
        if self._held[at] == '"' and not misnamed:
            self._scanned, self._in_string, self._keyed = at + 1, False, True
        else:
            self._refuse_call(at)
        return True

    def _end_call(self, at: int) -> None:
        call = parse_call(self._held[:at])
        end = at + len(self._form.closing)
        if call is None or (self._form.strict and call.name not in self._tools):
            self._refuse_call(end)
            return
        self._parts.append(call)
        self._enter(_State.ANSWER, self._held[end:], after_tag=True)

    def _refuse_call(self, at: int) -> None:
        """Pass the text on up to here: it is no call."""
        self._say(Channel.TEXT, self._form.opening + self._held[:at])
        self._enter(_State.ANSWER, self._held[at:])

    def _enter(self, state: _State, rest: str, *, after_tag: bool = False) -> None:
        self._state, self._held, self._after_tag = state, rest, after_tag

    def _say(self, channel: Channel, text: str) -> None:
        if text:
            self._parts.append(Said(channel, text))


def _begun(text: str, tag: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
