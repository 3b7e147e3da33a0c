from __future__ import annotations

from pathlib import Path

import pytest

from qwire.text.processor import TextProcessor
from tests.support.byte_tokenizer import write_byte_tokenizer


@pytest.fixture(scope="session")
def processor(tmp_path_factory: pytest.TempPathFactory) -> TextProcessor:
    folder: Path = write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return TextProcessor.from_folder(folder)
