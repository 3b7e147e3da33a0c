from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwire.text.detokenizer import Detokenizer
from qwire.text.tokenizer import QwenTokenizer


@pytest.fixture(scope="module")
def token_bytes(folder: Path) -> tuple[bytes, ...]:
    return QwenTokenizer.from_folder(folder).token_bytes


def decode(detokenizer: Detokenizer, token_ids: list[int]) -> str:
    return "".join([*map(detokenizer.push, token_ids), detokenizer.finish()])


# Bytes of the alphabet come first in the vocabulary: most of their sequences are not UTF-8.
TOKEN_IDS = st.lists(st.one_of(st.integers(0, 255), st.integers(0, 470)), max_size=40)


@given(token_ids=TOKEN_IDS)
def test_all_pieces_are_the_text_of_all_tokens(
    token_bytes: tuple[bytes, ...], full_tokenizer: Tokenizer, token_ids: list[int]
):
    expected = full_tokenizer.decode(token_ids, skip_special_tokens=True)
    assert decode(Detokenizer(token_bytes), token_ids) == expected


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_character_comes_whole_with_its_last_byte(token_bytes: tuple[bytes, ...], text: str):
    byte_ids = {token_bytes[token_id]: token_id for token_id in range(256)}
    detokenizer = Detokenizer(token_bytes)
    for character in text:
        *first, last = (byte_ids[bytes([byte])] for byte in character.encode())
        assert [detokenizer.push(token_id) for token_id in first] == [""] * len(first)
        assert detokenizer.push(last) == character
    assert detokenizer.finish() == ""


@given(token_ids=TOKEN_IDS, data=st.data())
def test_replayed_tokens_give_the_state_they_left(
    token_bytes: tuple[bytes, ...], token_ids: list[int], data: st.DataObject
):
    cut = data.draw(st.integers(0, len(token_ids)))
    first, second = Detokenizer(token_bytes), Detokenizer(token_bytes)
    assert [first.push(n) for n in token_ids[:cut]] == [second.push(n) for n in token_ids[:cut]]
    assert decode(first, token_ids[cut:]) == decode(second, token_ids[cut:])


def test_special_tokens_and_unused_ids_give_no_text(token_bytes: tuple[bytes, ...], control_ids: dict[str, int]):
    detokenizer = Detokenizer(token_bytes)
    assert decode(detokenizer, [control_ids["<|im_end|>"], control_ids["<|fim_prefix|>"], 151_935]) == "<|fim_prefix|>"
