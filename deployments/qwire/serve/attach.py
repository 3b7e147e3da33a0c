"""Joins a model to the server: its tokenizer from the checkpoint, its facts from the engine."""

from __future__ import annotations

import asyncio

from qwire.engine.errors import EngineUnavailable
from qwire.engine.protocol import Engine
from qwire.models.checkpoint import Checkpoint
from qwire.rpc.health_check import serves
from qwire.rpc.registry import ModelRegistry, ServedModel
from qwire.rpc.server import GatewayServer
from qwire.telemetry.logging import get_logger
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor

log = get_logger(__name__)

_RETRY_S = 0.5


async def attach(registry: ModelRegistry, checkpoint: Checkpoint, engine: Engine) -> None:
    """Serve a model from the moment its engine says what it is; waits for that as long as it takes.

    Args:
        registry: Where it is served from then on.
        checkpoint: Has its tokenizer.
        engine: Has its facts.
    """
    processor = await asyncio.to_thread(TextProcessor.from_folder, checkpoint.folder)
    while True:
        try:
            card = await engine.card()
            break
        except EngineUnavailable:
            await asyncio.sleep(_RETRY_S)
    registry.add(ServedModel(card, Generator(processor, engine, card), engine))
    log.info("model_attached", model=card.model_id)


def every_model_serves(server: GatewayServer) -> bool:
    """Whether every model of a server has generated a token and still serves."""
    models = server.health.status().models
    return bool(models) and all(serves(model.state) for model in models)
