"""A tiny tokenizer of the kind that Qwen models have, with Qwen's added tokens and chat template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from qwire.engine.fake import fake_card
from qwire.engine.protocol import ModelCard
from qwire.text.processor import TextProcessor
from qwire.text.template import ChatTemplate
from qwire.text.tokenizer import QwenTokenizer

# A busy machine is not a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_DATA = Path(__file__).parent / "data"

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"),
    *("<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>"),
    *("<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]

_NOT_SPECIAL = [
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    *("<think>", "</think>"),
]

_CORPUS = [
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n" * 4,
    "def reverse(text: str) -> str:\n    return text[::-1]\n\n\nclass Stack:\n    pass\n",
    "<tool_call> </tool_call> <think> </think> <|endoftext|> the then them there, in the end: END STOP stop",
    "Grüße aus Köln, 你好世界, привет мир, 👩‍👩‍👧 émoji é ñ",
]


@pytest.fixture(scope="session")
def full_tokenizer() -> Tokenizer:
    """The tokenizer as transformers would use it, added tokens included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in _SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in _NOT_SPECIAL])
    return tokenizer


@pytest.fixture(scope="session")
def spec(full_tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of its tokenizer.json. Not to be changed."""
    return json.loads(full_tokenizer.to_str())


@pytest.fixture(scope="session")
def control_ids(spec: dict[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in spec["added_tokens"]}


@pytest.fixture(scope="session")
def template_source() -> str:
    """The chat template of Qwen2.5, as published."""
    return (_DATA / "qwen2.5.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def thinking_source() -> str:
    """A chat template that renders what Qwen3's does."""
    return (_DATA / "qwen3.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def inspecting_source() -> str:
    """A chat template that looks into the messages and trims them."""
    return (_DATA / "inspecting.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def folder(spec: dict[str, Any], template_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, without its weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template_source, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def processor(folder: Path) -> TextProcessor:
    return TextProcessor.from_folder(folder)


@pytest.fixture(scope="session")
def thinker(folder: Path, thinking_source: str) -> TextProcessor:
    """The same tokenizer with a template that knows of thinking."""
    return TextProcessor(QwenTokenizer.from_folder(folder), ChatTemplate(thinking_source))


@pytest.fixture(scope="session")
def card(processor: TextProcessor, control_ids: dict[str, int]) -> ModelCard:
    """A model with some rows in its vocabulary that stand for nothing, as Qwen's have."""
    return replace(
        fake_card(vocabulary_tokens=processor.vocabulary_tokens + 8, context_tokens=256),
        max_output_tokens=128,
        default_max_output_tokens=32,
        eos_token_ids=frozenset({control_ids["<|im_end|>"], control_ids["<|endoftext|>"]}),
    )
