"""The tokenizer of a GGUF file as the `tokenizer.json` that its publisher would have written.

transformers can read a tokenizer out of GGUF too, but leaves out the NFC normalization that Qwen's published tokenizer
applies, keeps the unused rows of the embedding as tokens, and takes 20 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from qwire.models.errors import ConversionFailed
from qwire.models.gguf_file import GGUFFile

# How Qwen2 and later cut text before merging; the same as `transformers.models.qwen2`, checked by a test.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Kinds of token in the file: 1 = of the vocabulary, 3 = control, 4 = user-defined, 5 = an unused row of the embedding.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
# llama.cpp marks as control every token that looks like `<|...|>`. Qwen's own tokenizer does not count these as
# special: they stay visible when special tokens are skipped.
_NOT_SPECIAL = frozenset(
    {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}
)


def write_tokenizer(file: GGUFFile, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and, where the file has a template, `chat_template.jinja`.

    Raises:
        ConversionFailed: Not a byte-level BPE with Qwen's splitting, or its ids are not dense.
    """
    metadata = file.metadata
    described = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if described != ("gpt2", "qwen2"):
        raise ConversionFailed(f"tokenizer {described} cannot be converted; only ('gpt2', 'qwen2') can.")
    try:
        added = _added_tokens(metadata)
        tokenizer = _tokenizer(metadata, added)
        config = json.dumps(_tokenizer_config(metadata, added), indent=2, ensure_ascii=False)
    except (KeyError, IndexError, ValueError) as error:
        raise ConversionFailed(f"the tokenizer of the file is incomplete: {error!r}.") from error
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _added_tokens(metadata: dict[str, Any]) -> dict[int, AddedToken]:
    rows = zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
    return {
        token_id: AddedToken(text, normalized=False, special=kind == _CONTROL and text not in _NOT_SPECIAL)
        for token_id, (text, kind) in enumerate(rows)
        if kind in {_CONTROL, _USER_DEFINED}
    }


def _tokenizer(metadata: dict[str, Any], added: dict[int, AddedToken]) -> Tokenizer:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    if unknown := set(kinds) - {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED}:
        raise ConversionFailed(f"token types {sorted(unknown)} are not known.")
    vocabulary = {text: token_id for token_id, text in enumerate(tokens) if kinds[token_id] == _NORMAL}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    try:
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library has no class of its own for a merge without its token
        raise ConversionFailed(f"the tokenizer of the file is inconsistent: {error}.") from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added.values()))
    if misplaced := [
        token.content for token_id, token in added.items() if tokenizer.token_to_id(token.content) != token_id
    ]:
        raise ConversionFailed(f"added tokens do not follow the vocabulary without a gap: {misplaced}.")
    return tokenizer


def _tokenizer_config(metadata: dict[str, Any], added: dict[int, AddedToken]) -> dict[str, Any]:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    eos = tokens[metadata["tokenizer.ggml.eos_token_id"]]
    pad = tokens[metadata["tokenizer.ggml.padding_token_id"]]
    special = [token.content for token in added.values() if token.special]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": metadata.get("tokenizer.ggml.add_bos_token", False),
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token_id): {"content": token.content, **flags, "special": token.special}
            for token_id, token in added.items()
        },
        "additional_special_tokens": [text for text in special if text != pad],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "errors": "replace",
        "model_max_length": metadata["qwen2.context_length"],
        "pad_token": pad,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
