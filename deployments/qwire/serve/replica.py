"""A model replica: one engine behind Ray Serve. Tokens in, tokens out; it knows no text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from ray import serve

from qwire.engine.chunk import TokenChunk
from qwire.engine.protocol import AdapterInfo, EngineStats, ModelCard
from qwire.engine.request import TokenRequest
from qwire.models.store import ModelStore
from qwire.serve.answer import keep_answers_out_of_the_log
from qwire.serve.config import ModelSettings
from qwire.serve.demand import ReplicaLoad
from qwire.serve.left_call import send_nothing_to_left_calls
from qwire.serve.model_engine import start_engine
from qwire.serve.model_version import ModelReplaced, model_version
from qwire.serve.recorded_engine import RecordedEngine
from qwire.serve.recorder import GenerationRecorder
from qwire.serve.route import Route
from qwire.serve.router import VERSION
from qwire.serve.stall import StallWatch
from qwire.telemetry.logging import get_logger
from qwire.telemetry.setup import TelemetryConfig, configure

log = get_logger(__name__)

# Gateways are replaced with their models, but not at the same moment: gRPC's own five attempts must outlast that.
_RETRY_AFTER_S = 3.0


class ModelReplica:
    """Loads one model and generates with it.

    Args:
        model: Which model, and how it runs.
        cache_dir: Where model files are kept on this machine.
        telemetry: Where spans and logs go.
    """

    async def __init__(self, model: ModelSettings, cache_dir: Path, telemetry: TelemetryConfig) -> None:
        send_nothing_to_left_calls()
        keep_answers_out_of_the_log()
        self._settings = model
        self._telemetry = configure(telemetry)
        self._name = name = serve.get_replica_context().replica_id.unique_id
        began = time.monotonic()
        checkpoint = await asyncio.to_thread(ModelStore(cache_dir).resolve, model.source)
        self._version = model_version(model, checkpoint)
        self._requests = 0
        engine = await start_engine(model, checkpoint, cache_dir)
        self._engine = RecordedEngine(engine, GenerationRecorder(self._telemetry, model.served_id, name))
        self._stall = StallWatch(model.replicas.stall_timeout_s)
        log.info("model_loaded", model=model.served_id, replica=name, seconds=round(time.monotonic() - began, 1))

    async def generate(
        self,
        request: TokenRequest,
        version: str,
        route: Route,  # noqa: ARG002 - its router reads it
    ) -> AsyncGenerator[TokenChunk, None]:
        """Generate; tokens that come within `stream_interval_s` of a message share the next one.

        Args:
            request: What to generate.
            version: The model version that the caller tokenized for.
            route: Has told the caller already that the call came here.

        Raises:
            ModelReplaced: This replica's is another one.
        """
        self._check(version)
        interval_s = self._settings.replicas.stream_interval_s
        counts = 0 if request.envelope.is_probe else 1
        self._requests += counts
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    if interval_s and chunk.token_ids and chunk.finish is None:
                        await asyncio.sleep(interval_s)
        finally:
            self._requests -= counts

    async def cancel(self, request_id: str, only_waiting: bool = False) -> bool:  # noqa: FBT001, FBT002 - Ray's calls
        """See `Engine.cancel`."""
        return await self._engine.cancel(request_id, only_waiting=only_waiting)

    async def presence(self, version: str) -> str:
        """Return this replica's id.

        Raises:
            ModelReplaced: It is another version.
        """
        self._check(version)
        return self._name

    async def card(self, version: str) -> ModelCard:
        """Return what the model is.

        Raises:
            ModelReplaced: It is another version.
        """
        self._check(version)
        return await self._engine.card()

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the adapters that there are now."""
        return await self._engine.adapters()

    async def stats(self) -> EngineStats:
        """Return the engine's load."""
        return await self._engine.stats()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaling policy how much there is to do."""
        return ReplicaLoad.of(await self._engine.stats(), self._requests).report()

    def record_replica_metadata(self) -> dict[str, str]:
        """Tell the routers which model version this is."""
        return {VERSION: self._version}

    def _check(self, version: str) -> None:
        if version != self._version:
            raise ModelReplaced(_RETRY_AFTER_S)

    async def check_health(self) -> None:
        """Let Serve restart this replica when its engine is dead or stuck."""
        self._stall.check(await self._engine.stats())

    async def __del__(self) -> None:
        """Close the engine; Serve calls this once the replica's requests are done."""
        await self._engine.close()
        self._telemetry.shutdown()
