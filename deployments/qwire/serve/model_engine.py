"""Starts the engine of a configured model in this process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from qwire.engine.local import LocalEngine
from qwire.models.store import ModelStore
from qwire.serve.config import ModelSettings


async def start_engine(model: ModelSettings, cache_dir: Path) -> LocalEngine:
    """Fetch what is not there yet, load the model, with its draft model if it has one, and start.

    Args:
        model: Which model, and how it runs.
        cache_dir: Where model files are kept on this machine.
    """
    store = ModelStore(cache_dir)
    checkpoint = await asyncio.to_thread(store.resolve, model.source)
    draft = await asyncio.to_thread(store.resolve, model.draft_source) if model.draft_source else None
    return await LocalEngine.start(replace(checkpoint, model_id=model.served_id), model.engine_in(cache_dir), draft)
