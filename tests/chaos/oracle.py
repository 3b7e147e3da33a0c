"""Compares what a stream said with what it says when nothing disturbs it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

from qwire.client import Generation


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with one stream.

    Attributes:
        lost_tokens: Tokens of the undisturbed run that did not come.
        repeated_tokens: Tokens that came and are not in the undisturbed run at that place.
        complaint: What differs beyond the tokens; empty = nothing does.
        place: Where the first token differs, counted from 0; None = none does.
    """

    lost_tokens: int = 0
    repeated_tokens: int = 0
    complaint: str = ""
    place: int | None = None

    @property
    def is_equal(self) -> bool:
        """Whether the stream said the same, once."""
        return self == Verdict()


def compare(generation: Generation, undisturbed: Generation) -> Verdict:
    """Judge a stream that ended well: its tokens, its thinking and text, why it ended and what it was charged."""
    got, expected = _ids(generation), _ids(undisturbed)
    lost = repeated = 0
    place: int | None = None
    if got != expected:
        pairs = enumerate(zip(got, expected, strict=False))
        place = next((at for at, (one, other) in pairs if one != other), min(len(got), len(expected)))
        for kind, first, behind, begin, end in SequenceMatcher(None, expected, got, autojunk=False).get_opcodes():
            lost += 0 if kind == "equal" else behind - first
            repeated += 0 if kind == "equal" else end - begin
    complaints: list[str] = []
    if generation.text != undisturbed.text:
        complaints.append("text")
    if generation.reasoning != undisturbed.reasoning:
        complaints.append("reasoning")
    if generation.finished.reason is not undisturbed.finished.reason:
        complaints.append("finish reason")
    usage, due = generation.usage, undisturbed.usage
    if (usage.prompt_tokens, usage.output_tokens) != (due.prompt_tokens, due.output_tokens):
        complaints.append("usage")
    return Verdict(lost, repeated, ", ".join(complaints), place)


def _ids(generation: Generation) -> list[int]:
    return [token.id for token in generation.tokens]
