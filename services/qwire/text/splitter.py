"""Tells thinking, answer and tool calls apart in output text that comes in pieces."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from qwire.text.call_progress import CallFragment, CallProgress
from qwire.text.call_scanner import CALL_FORMS, CallScanner
from qwire.text.call_text import WrittenCall

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


class Channel(Enum):
    """What a piece of text is."""

    TEXT = "text"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class Said:
    """Some text of a channel, never empty."""

    channel: Channel
    text: str


Part = Said | CallFragment | WrittenCall
"""What the splitter finds, in order."""


class Splitter(Protocol):
    """Splits an output into its parts. What comes out after some tokens depends on these only."""

    @property
    def plain(self) -> bool:
        """Whether everything from here on is the answer, and comes out as it goes in."""
        ...

    @property
    def thinking(self) -> bool:
        """Whether what comes next is thinking."""
        ...

    @property
    def may_call(self) -> bool:
        """Whether there are tools to call."""
        ...

    @property
    def in_call(self) -> bool:
        """Whether a call may be under way."""
        ...

    def push(self, text: str, token_id: int | None = None) -> list[Part]:
        """Take the next piece of text, and the token that it comes with; return what is certain now."""
        ...

    def finish(self) -> list[Part]:
        """Return what was held back: no more text comes."""
        ...


class _State(Enum):
    START = "start"
    THINKING = "thinking"
    ANSWER = "answer"
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
        fragments: Whether calls are told of before they are complete.
    """

    def __init__(
        self,
        *,
        thinking: bool = False,
        opened: bool = False,
        tools: Collection[str] = (),
        fragments: bool = False,
    ) -> None:
        self._state = _State.THINKING if opened else _State.START if thinking else _State.ANSWER
        self._tools = frozenset(tools)
        self._forms = CALL_FORMS if tools else ()
        self._held = ""
        self._scanner = CallScanner(CALL_FORMS[0], self._tools)
        self._fragments = fragments
        self._progress = CallProgress()
        self._told_of_call = False
        self._after_tag = opened
        self._parts: list[Part] = []

    @property
    def plain(self) -> bool:
        """See `Splitter.plain`."""
        return self._state is _State.ANSWER and not (self._forms or self._held or self._after_tag)

    @property
    def thinking(self) -> bool:
        """See `Splitter.thinking`."""
        return self._state is _State.THINKING

    @property
    def may_call(self) -> bool:
        """See `Splitter.may_call`."""
        return bool(self._forms)

    @property
    def in_call(self) -> bool:
        """See `Splitter.in_call`."""
        return self._state is _State.CALL

    def push(self, text: str, token_id: int | None = None) -> list[Part]:  # noqa: ARG002 - tags are texts here
        """See `Splitter.push`."""
        self._held += text
        while self._held and self._step():
            pass
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[Part]:
        """See `Splitter.finish`. A call that is not complete is text."""
        self._retract()
        retracted, self._parts = self._parts, []
        text = self._scanner.form.opening + self._held if self.in_call else self._held
        channel = Channel.REASONING if self.thinking else Channel.TEXT
        self._held = ""
        return [*retracted, Said(channel, text)] if text else retracted

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
            case _State.CALL:
                return self._call()

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
            begin, form = min(found, key=lambda one: one[0])
            self._say(Channel.TEXT, self._held[:begin])
            self._scanner = CallScanner(form, self._tools)
            self._progress = CallProgress()
            self._enter(_State.CALL, self._held[begin + len(form.opening) :])
            return True
        certain = len(self._held) - max((_begun(self._held, form.opening) for form in self._forms), default=0)
        self._say(Channel.TEXT, self._held[:certain])
        self._held = self._held[certain:]
        return False

    def _call(self) -> bool:
        verdict = self._scanner.scan(self._held)
        if verdict is None:
            self._tell_of_call()
            return False
        if verdict.call is None:
            self._retract()
            self._say(Channel.TEXT, self._scanner.form.opening + self._held[: verdict.end])
        else:
            self._parts.append(verdict.call)
            self._told_of_call = False
        self._enter(_State.ANSWER, self._held[verdict.end :], after_tag=verdict.call is not None)
        return True

    def _tell_of_call(self) -> None:
        fragment = self._progress.advance(self._held) if self._fragments else None
        # A code block is a call of a tool on offer only.
        if fragment is not None and not (self._scanner.form.strict and self._progress.name not in self._tools):
            self._parts.append(fragment)
            self._told_of_call = True

    def _retract(self) -> None:
        if self._told_of_call:
            self._parts.append(CallFragment(retracted=True))
            self._told_of_call = False

    def _enter(self, state: _State, rest: str, *, after_tag: bool = False) -> None:
        self._state, self._held, self._after_tag = state, rest, after_tag

    def _say(self, channel: Channel, text: str) -> None:
        if text:
            self._parts.append(Said(channel, text))


def _begun(text: str, tag: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    longest = min(len(text), len(tag) - 1)
    if tag[0] not in text[-longest:]:  # nearly always
        return 0
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
