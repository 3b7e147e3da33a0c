"""The tokenizer of a Qwen model: text to token ids, and the bytes of each token id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from qwire.text.control import ControlTokens
from qwire.text.errors import UnusableTokenizer


@dataclass(frozen=True, slots=True)
class _AddedToken:
    id: int
    text: str
    special: bool


class QwenTokenizer:
    """A byte-level BPE tokenizer whose `encode` never gives a control token, whatever the text.

    The tokenizer proper is built without the added tokens, its vocabulary included, so that no path through it leads
    to one of them. They come into a prompt by id only, where a chat template wrote them (`encode_rendered`).

    Attributes:
        control: The added tokens.
        token_bytes: What each token id stands for, by id: bytes of UTF-8 text that may end within a character; empty
            for special tokens and for ids that stand for nothing.
        shown_bytes: The same, with the text of special tokens: what is in a prompt.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Build from the content of a tokenizer.json.

        Raises:
            UnusableTokenizer: It is not byte-level BPE, or it treats added tokens in ways that Qwen's do not.
        """
        added = _added_tokens(spec)
        self.control = ControlTokens({token.text: token.id for token in added})
        self.token_bytes = _token_bytes(spec, added)
        special = {token.id: token.text.encode() for token in added if token.special}
        self.shown_bytes = tuple(special.get(token_id, data) for token_id, data in enumerate(self.token_bytes))
        self._plain = _plain_tokenizer(spec, added)

    @classmethod
    def from_folder(cls, folder: Path) -> QwenTokenizer:
        """Read a model's folder.

        Raises:
            UnusableTokenizer: It has no tokenizer.json of the kind that Qwen models have.
        """
        path = folder / "tokenizer.json"
        try:
            return cls(json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnusableTokenizer(f"{path} is not a readable tokenizer: {error}") from error

    @property
    def vocabulary_tokens(self) -> int:
        """One more than the highest token id that stands for something."""
        return len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        """Return the text's token ids; control tokens in it are ordinary characters."""
        return self._encode_batch([text])[0]

    def shows(self, text: str) -> bool:
        """Whether a text can be read in the output: it is no control token, or one whose text is told."""
        token_id = self.control.id_of(text)
        return token_id is None or self.token_bytes[token_id] != b""

    def encode_rendered(self, rendered: str, marker: str) -> list[int]:
        """Return the token ids of a rendered chat template, whose texts of callers were shielded with the marker."""
        pieces = list(self.control.split(rendered, marker))
        texts = iter(self._encode_batch([piece for piece in pieces if isinstance(piece, str)]))
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else next(texts)
        return ids

    def _encode_batch(self, texts: list[str]) -> list[list[int]]:
        # Of the tokenizer's methods only the batched ones let other threads run, which matters for long texts.
        return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]


def _added_tokens(spec: Mapping[str, Any]) -> list[_AddedToken]:
    tokens: list[_AddedToken] = []
    for entry in spec["added_tokens"]:
        unusual = [flag for flag in ("lstrip", "rstrip", "single_word", "normalized") if entry[flag]]
        if unusual:
            raise UnusableTokenizer(f"added token {entry['content']!r} is {', '.join(unusual)}: Qwen's are not")
        tokens.append(_AddedToken(entry["id"], entry["content"], entry["special"]))
    return tokens


def _plain_tokenizer(spec: Mapping[str, Any], added: list[_AddedToken]) -> Tokenizer:
    """Return the tokenizer without its added tokens. It cannot be built where a merge leads to one."""
    vocabulary = dict(spec["model"]["vocab"])
    for token in added:
        vocabulary.pop(token.text, None)
    plain = {
        **spec,
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "model": {**spec["model"], "vocab": vocabulary},
    }
    try:
        return Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises nothing narrower
        raise UnusableTokenizer(f"the tokenizer does not work without its added tokens: {error}") from error


def _token_bytes(spec: Mapping[str, Any], added: list[_AddedToken]) -> tuple[bytes, ...]:
    kinds = spec["model"]["type"], (spec["decoder"] or {}).get("type")
    if kinds != ("BPE", "ByteLevel"):
        raise UnusableTokenizer(f"model and decoder are {kinds}, not BPE and ByteLevel")
    texts: dict[int, str] = {token_id: text for text, token_id in spec["model"]["vocab"].items()}
    texts |= {token.id: "" if token.special else token.text for token in added}
    return tuple(_bytes_of(texts.get(token_id, "")) for token_id in range(max(texts) + 1))


def _bytes_of(text: str) -> bytes:
    """Return what a token's text stands for; as in the library, one with other characters stands for itself."""
    try:
        return bytes([_BYTES[character] for character in text])
    except KeyError:
        return text.encode()


def _byte_characters() -> dict[str, int]:
    """Return GPT-2's table: printable Latin-1 bytes are themselves, the others follow from U+0100 on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()
