from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwire.text.errors import UnusableTokenizer
from qwire.text.tokenizer import QwenTokenizer

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("the <|>_im\n ")), max_size=60)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> QwenTokenizer:
    return QwenTokenizer.from_folder(folder)


@given(text=TEXTS)
def test_text_without_control_tokens_is_encoded_as_by_the_library(
    tokenizer: QwenTokenizer, full_tokenizer: Tokenizer, control_ids: dict[str, int], text: str
):
    assume(not any(control in text for control in control_ids))
    assert tokenizer.encode(text) == full_tokenizer.encode(text).ids


@given(text=TEXTS)
def test_the_bytes_of_its_tokens_are_the_text(tokenizer: QwenTokenizer, text: str):
    encoded = b"".join(tokenizer.token_bytes[token_id] for token_id in tokenizer.encode(text))
    assert encoded.decode() == unicodedata.normalize("NFC", text)


def test_control_tokens_in_text_are_characters(
    tokenizer: QwenTokenizer, control_ids: dict[str, int], full_tokenizer: Tokenizer
):
    for text, token_id in control_ids.items():
        assert full_tokenizer.encode(text).ids == [token_id]
        assert len(tokenizer.encode(text)) > 1
        assert not set(tokenizer.encode(text)) & set(control_ids.values())


def test_the_vocabulary_ends_with_the_last_added_token(tokenizer: QwenTokenizer, control_ids: dict[str, int]):
    assert tokenizer.vocabulary_tokens == max(control_ids.values()) + 1


Spec = dict[str, Any]


def strip_left(spec: Spec) -> None:
    spec["added_tokens"][0]["lstrip"] = True


def normalize(spec: Spec) -> None:
    spec["added_tokens"][0]["normalized"] = True


def shorten(spec: Spec) -> None:
    spec["added_tokens"][0]["content"] = "x"


def name_another_model(spec: Spec) -> None:
    spec["model"]["type"] = "Unigram"


def drop_the_decoder(spec: Spec) -> None:
    spec["decoder"] = None


def let_a_merge_lead_to_an_added_token(spec: Spec) -> None:
    spec["added_tokens"][0]["content"] = "".join(spec["model"]["merges"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (strip_left, "lstrip"),
        (normalize, "normalized"),
        (shorten, "one character"),
        (name_another_model, "Unigram"),
        (drop_the_decoder, "None"),
        (let_a_merge_lead_to_an_added_token, "without its added"),
    ],
)
def test_a_tokenizer_of_another_kind_cannot_be_served(spec: Spec, change: Callable[[Spec], None], message: str):
    changed = copy.deepcopy(spec)
    change(changed)
    with pytest.raises(UnusableTokenizer, match=message):
        QwenTokenizer(changed)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"added_tokens": [1]}', b"\xff"])
def test_a_folder_without_a_tokenizer_cannot_be_served(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UnusableTokenizer, match=r"tokenizer\.json"):
        QwenTokenizer.from_folder(tmp_path)


def test_added_tokens_that_the_vocabulary_repeats_are_unreachable(spec: Spec, control_ids: dict[str, int]):
    """Some conversions write the added tokens into the vocabulary as well."""
    changed = copy.deepcopy(spec)
    changed["model"]["vocab"].update(control_ids)
    changed["model"]["ignore_merges"] = True
    changed["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    tokenizer = QwenTokenizer(changed)
    for text in control_ids:
        assert not set(tokenizer.encode(text)) & set(control_ids.values())
