"""What prompt lookup guesses."""

from __future__ import annotations

from qwire.engine.prompt_lookup import PromptLookup
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.engine.sequence import Sequence


def guess(
    prompt: list[int], output: tuple[int, ...] = (), *, room: int = 10, least: int = 2, most: int = 3
) -> list[int]:
    request = TokenRequest(tuple(prompt), Envelope("a"), StopParams(100), output_token_ids=output)
    sequence = Sequence(request, frozenset(), 0, 0)
    drafts = PromptLookup(4, least, most).draft({sequence: room})
    assert all(drafts.values()), "a sequence without a guess is left out"
    return list(drafts.get(sequence, ()))


def test_what_followed_the_last_tokens_is_guessed() -> None:
    assert guess([1, 2, 3, 4, 5, 6, 7, 8, 9], (2, 3)) == [4, 5, 6, 7]


def test_more_tokens_alike_go_before_newer_ones() -> None:
    assert guess([1, 2, 3, 40, 41, 42, 43, 2, 3, 50, 51, 52, 53], (1, 2, 3)) == [40, 41, 42, 43]


def test_of_several_places_the_newest_counts() -> None:
    assert guess([2, 3, 40, 41, 42, 43, 2, 3, 50, 51, 52, 53, 2, 3]) == [50, 51, 52, 53]


def test_nothing_is_guessed_from_fewer_tokens_than_the_least() -> None:
    assert guess([2, 3, 4, 9, 3], least=2) == []
    assert guess([2, 3, 4, 9, 3], least=1) == [4, 9, 3, 4]


def test_a_circle_goes_on() -> None:
    assert guess([7, 7, 7]) == [7, 7, 7, 7]
    assert guess([9, 1, 2, 1, 2]) == [1, 2, 1, 2]


def test_the_room_bounds_the_guess() -> None:
    assert guess([1, 2, 3, 4, 5, 6, 1, 2], room=1) == [3]


def test_short_texts_have_no_guess() -> None:
    assert guess([1]) == guess([1, 2]) == guess([1, 2, 3]) == []


def test_tokens_are_told_apart_from_parts_of_them() -> None:
    # As bytes the last two occur before, but not at the border of a token.
    assert guess([256, 65536, 9, 1, 256]) == []
