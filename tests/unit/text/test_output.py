from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwire.text.output import OutputPiece, OutputText
from qwire.text.processor import TextProcessor
from qwire.text.request import TextPrompt

Encode = Callable[[str], list[int]]


@pytest.fixture
def encode(processor: TextProcessor) -> Encode:
    return lambda text: processor.encode(TextPrompt(text))


def test_the_output_ends_with_the_token_that_completes_the_stop_string(processor: TextProcessor, encode: Encode):
    ids = [*encode("ab"), *encode("cd"), *encode("ef")]
    count = len(encode("ab")) + len(encode("cd"))
    assert processor.output_text(("bcd",), 0).push(ids) == [OutputPiece("a", count, "bcd")]


@given(text=st.text("ab END", max_size=30), minimum=st.integers(0, 30), data=st.data())
def test_grouping_of_tokens_changes_nothing(processor: TextProcessor, text: str, minimum: int, data: st.DataObject):
    ids = processor.encode(TextPrompt(text))
    stop_strings = ("END", "ba")
    whole, wholly_used, stop_string = run(processor.output_text(stop_strings, minimum), [ids])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ids)))))
    groups = [ids[start:end] for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    assert run(processor.output_text(stop_strings, minimum), groups) == (whole, wholly_used, stop_string)


def run(output: OutputText, groups: list[list[int]]) -> tuple[str, int, str | None]:
    text, used = "", 0
    for group in groups:
        for piece in output.push(group):
            text += piece.text
            used += piece.tokens
            if piece.stop_string is not None:
                return text, used, piece.stop_string
    return text + rest_of(output), used, None


def text_of(pieces: list[OutputPiece]) -> str:
    return "".join(piece.text for piece in pieces)


def rest_of(output: OutputText) -> str:
    return output.finish().text


def test_a_stop_string_counts_from_the_minimum_on(processor: TextProcessor, encode: Encode):
    first, second = encode("END"), encode(" END")
    minimum = len(first) + 1
    pieces = processor.output_text(("END",), minimum).push([*first, *second])
    assert pieces == [OutputPiece("END ", len(first) + len(second), "END")]
    assert processor.output_text(("END",), len(first)).push([*first, *second]) == [OutputPiece("", len(first), "END")]


def test_what_was_held_back_comes_at_the_end(processor: TextProcessor, encode: Encode):
    output = processor.output_text(("ENDE",), 0)
    assert text_of(output.push(encode("the END"))) == "the "
    assert rest_of(output) == "END"


def test_an_incomplete_character_comes_at_the_end_and_completes_no_stop_string(
    processor: TextProcessor, encode: Encode
):
    output = processor.output_text(("\ufffd",), 0)
    assert text_of(output.push(encode("🙂")[:-1])) == ""
    assert rest_of(output) == "\ufffd"
