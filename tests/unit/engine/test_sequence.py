from __future__ import annotations

from collections.abc import Callable

import pytest

from qwire.engine.chunk import FinishReason
from qwire.engine.request import StopParams
from qwire.engine.sequence import Sequence

MakeSequence = Callable[..., Sequence]


@pytest.mark.parametrize(
    ("token_id", "reason", "stop_token_id"),
    [(0, FinishReason.END_OF_TURN, 0), (7, FinishReason.STOP_TOKEN, 7), (5, FinishReason.LENGTH, None)],
)
def test_the_last_token_says_why_it_is_the_last(
    make_sequence: MakeSequence, token_id: int, reason: FinishReason, stop_token_id: int | None
) -> None:
    sequence = make_sequence(stop=StopParams(max_output_tokens=2, stop_token_ids=frozenset({7})))
    sequence.append(5, 100)
    assert not sequence.ended
    sequence.append(token_id, 200)
    assert sequence.finish is not None
    assert (sequence.finish.reason, sequence.finish.stop_token_id) == (reason, stop_token_id)
    assert sequence.finish.timings.first_token_unix_ns == 100
    assert sequence.finish.timings.finished_unix_ns == 200
    assert sequence.output_token_ids == [5, token_id]


def test_a_stop_token_goes_before_the_end_of_the_turn(make_sequence: MakeSequence) -> None:
    sequence = make_sequence(stop=StopParams(max_output_tokens=2, stop_token_ids=frozenset({0})))
    sequence.append(0, 1)
    assert sequence.finish is not None
    assert sequence.finish.reason is FinishReason.STOP_TOKEN


def test_tokens_that_end_are_banned_before_the_least_output(make_sequence: MakeSequence) -> None:
    stop = StopParams(max_output_tokens=5, min_output_tokens=2, stop_token_ids=frozenset({7}))
    sequence = make_sequence(stop=stop)
    assert sequence.banned_token_ids == {0, 7}
    sequence.append(1, 1)
    assert sequence.banned_token_ids == {0, 7}
    sequence.append(1, 2)
    assert not sequence.banned_token_ids


def test_output_that_it_came_with_counts(make_sequence: MakeSequence) -> None:
    sequence = make_sequence(3, StopParams(max_output_tokens=3, min_output_tokens=2), output_token_ids=(8, 9))
    assert sequence.pending_tokens == 5
    assert sequence.limit_tokens == 6
    assert not sequence.banned_token_ids
    sequence.append(4, 1)
    assert sequence.ended


@pytest.mark.parametrize("start", range(6))
def test_token_ids_are_cut_from_prompt_and_output(make_sequence: MakeSequence, start: int) -> None:
    sequence = make_sequence(3, output_token_ids=(8, 9, 10))
    whole = [1, 2, 3, 8, 9, 10]
    for length in range(1, 7 - start):
        assert sequence.token_ids(start, length) == whole[start : start + length]
