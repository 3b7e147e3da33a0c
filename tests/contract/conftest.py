"""A model that echoes its prompt, one token per byte, and a server in front of it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from tests.contract.edge import Edge, Stubs, card_of, open_edge, served

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token per byte, and Qwen's way to write a conversation; the last token is the end of a turn."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def processor(tokenizer_folder: Path) -> TextProcessor:
    """What the tokenizer makes of text."""
    return TextProcessor.from_folder(tokenizer_folder)


@pytest.fixture
def engine(processor: TextProcessor) -> FakeEngine:
    """Echoes the prompt as fast as it can."""
    return FakeEngine(card=card_of(processor))


@pytest.fixture
async def edge(processor: TextProcessor, engine: FakeEngine) -> AsyncGenerator[Edge, None]:
    async with open_edge([await served(processor, engine)]) as edge:
        yield edge


@pytest.fixture
def stubs(edge: Edge) -> Stubs:
    return edge.stubs
