"""A configured model, with the draft model that its configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwire.models.store import ModelStore
from qwire.serve.config import ModelSettings
from qwire.serve.model_engine import start_engine
from tests.model.constrained import asking, output_of
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model


@pytest.mark.parametrize("speculation", ["none", "prompt-lookup", "draft-model"])
async def test_a_model_speculates_as_configured(tmp_path: Path, speculation: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_checkpoint(folder)
    settings = ModelSettings.model_validate(
        {
            "source": str(folder),
            "id": "tiny",
            "draft_source": str(folder) if speculation == "draft-model" else "",
            "engine": {"quantization": "none", "threads": 1, "speculation": speculation, "lookup_least_tokens": 1},
        }
    )
    cache = tmp_path / "cache"
    engine = await start_engine(settings, ModelStore(cache).resolve(settings.source), cache)
    try:
        assert (await engine.card()).model_id == "tiny"
        await output_of(engine, asking("abcabcabcabc", None, output=30))
        drafted = (await engine.stats()).drafted_tokens
        assert (drafted > 0) == (speculation != "none")
    finally:
        await engine.close()
