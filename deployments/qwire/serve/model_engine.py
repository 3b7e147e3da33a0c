"""Starts the engine of a configured model in this process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from qwire.engine.local import LocalEngine
from qwire.models.checkpoint import Checkpoint
from qwire.models.store import ModelStore
from qwire.serve.config import ModelSettings


async def start_engine(model: ModelSettings, checkpoint: Checkpoint, cache_dir: Path) -> LocalEngine:
    """Load a model, with its draft model if it has one, and start.

    Args:
        model: Which model, and how it runs.
        checkpoint: Its files.
        cache_dir: Where model files are kept on this machine; the draft model is fetched to it where it is not there.
    """
    draft = await asyncio.to_thread(ModelStore(cache_dir).resolve, model.draft_source) if model.draft_source else None
    return await LocalEngine.start(replace(checkpoint, model_id=model.served_id), model.engine_in(cache_dir), draft)
