"""A model that echoes its prompt, one token per byte, and a server in front of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from tests.contract.edge import Edge, Stubs, card_of, open_edge, served
from tests.support.byte_tokenizer import write_byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


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
