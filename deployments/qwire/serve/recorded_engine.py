"""An engine whose generations are recorded where they run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from qwire.engine.chunk import TokenChunk
from qwire.engine.protocol import AdapterInfo, Engine, EngineStats, ModelCard
from qwire.engine.request import TokenRequest
from qwire.serve.recorder import GenerationRecorder


class RecordedEngine:
    """Passes everything on to an engine, and records spans and measurements of each generation.

    Args:
        engine: Generates.
        recorder: Records.
    """

    def __init__(self, engine: Engine, recorder: GenerationRecorder) -> None:
        self._engine = engine
        self._recorder = recorder

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Generate; see `Engine.generate`."""
        with self._recorder.generation(request) as record:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    record.add(chunk)
                    yield chunk

    async def cancel(self, request_id: str, *, only_waiting: bool = False) -> bool:
        """See `Engine.cancel`."""
        return await self._engine.cancel(request_id, only_waiting=only_waiting)

    async def card(self) -> ModelCard:
        """Return what the model is."""
        return await self._engine.card()

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the adapters that there are now."""
        return await self._engine.adapters()

    async def stats(self) -> EngineStats:
        """Return the present load."""
        return await self._engine.stats()

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.close()
