from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwire.text.stop import StopMatcher

# Two letters make overlaps likely.
STOP_STRINGS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
PIECES = st.lists(st.text("abc", max_size=6), max_size=12)


@dataclass(frozen=True)
class Expected:
    text: str
    found: str | None


def by_brute_force(stop_strings: list[str], text: str) -> Expected:
    for end in range(len(text) + 1):
        found = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return Expected(text[: end - len(longest)], longest)
    return Expected(text, None)


def pending(stop_strings: list[str], text: str) -> int:
    """The length of the longest end of the text that may still become a stop string."""
    lengths = (n for stop in stop_strings for n in range(len(stop)) if text.endswith(stop[:n]))
    return max(lengths, default=0)


@given(stop_strings=STOP_STRINGS, pieces=PIECES)
def test_any_cut_of_the_text_gives_the_first_match_and_holds_back_no_more_than_needed(
    stop_strings: list[str], pieces: list[str]
):
    matcher = StopMatcher(stop_strings)
    expected = by_brute_force(stop_strings, "".join(pieces))
    passed = seen = ""
    for piece in pieces:
        seen += piece
        text, found = matcher.push(piece)
        passed += text
        if found is not None:
            assert (passed, found) == (expected.text, expected.found)
            return
        assert len(passed) == len(seen) - pending(stop_strings, seen)
    assert (passed + matcher.finish(), None) == (expected.text, expected.found)


@given(stop_strings=STOP_STRINGS, pieces=PIECES, honoured_from=st.integers(0, 12))
def test_matches_that_end_too_early_are_text(stop_strings: list[str], pieces: list[str], honoured_from: int):
    """As if the matches that end in the first pieces were not there, while those that begin there count."""
    matcher = StopMatcher(stop_strings)
    text = "".join(pieces)
    earliest_end = len("".join(pieces[:honoured_from]))
    expected = Expected(text, None)
    for end in range(earliest_end + 1, len(text) + 1):
        found = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            expected = Expected(text[: end - len(longest)], longest)
            break
    passed = seen = ""
    for number, piece in enumerate(pieces):
        seen += piece
        output, found = matcher.push(piece, honour=number >= honoured_from)
        passed += output
        if found is not None:
            assert (passed, found) == (expected.text, expected.found)
            return
        assert len(passed) == len(seen) - pending(stop_strings, seen)
    assert Expected(passed + matcher.finish(), None) == expected


@pytest.mark.parametrize(
    ("stop_strings", "text", "before", "found"),
    [
        (["bc", "abcd"], "xabcd", "xa", "bc"),
        (["c", "bc", "abc"], "xabc", "x", "abc"),
        (["ab", "abc"], "abc", "", "ab"),
        (["\n\n"], "a\n\n\nb", "a", "\n\n"),
        (["🙂"], "a🙂b", "a", "🙂"),
    ],
)
def test_the_match_that_is_complete_first_wins_then_the_longest(
    stop_strings: list[str], text: str, before: str, found: str
):
    assert StopMatcher(stop_strings).push(text) == (before, found)


def test_without_stop_strings_nothing_is_held_back():
    matcher = StopMatcher([])
    assert matcher.push("abc") == ("abc", None)
    assert matcher.finish() == ""
