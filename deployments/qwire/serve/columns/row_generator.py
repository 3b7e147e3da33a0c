"""The stage of a Ray Data pipeline that generates: an actor that calls the replicas that Serve runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray import serve
from ray.actor import ActorHandle

from qwire.rpc.batch_workshop import BatchWorkshop
from qwire.rpc.config import HealthConfig
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.serve.columns.output_folder import write_rows
from qwire.serve.columns.piece import Table
from qwire.serve.columns.row_generation import RowGeneration
from qwire.serve.columns.row_reader import RowReader
from qwire.serve.columns.row_runner import RowRunner
from qwire.serve.config import AppConfig
from qwire.serve.remote_models import attach_remote
from qwire.telemetry.setup import configure

_TELL_S = 0.5
"""How often progress is told, seconds."""
_DONE = pa.schema([("rows", pa.int64())])


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What the actors of a run have in common.

    Attributes:
        app: The Serve application whose replicas generate.
        config: Its configuration.
        cache_dir: Where model files are kept; tokenizers are read from it.
        folder: Where files of output go.
        reader: Makes generations of rows.
        run_id: With a row's number, the seed of one that brings none.
        tenant: Whose rows they are.
        tally: A `Tally`, which is told of the progress.
    """

    app: str
    config: AppConfig
    cache_dir: Path
    folder: Path
    reader: RowReader
    run_id: str
    tenant: str
    tally: ActorHandle[Any]


@dataclass(slots=True)
class Tally:
    """Adds up what the actors of a run tell, for whoever watches. What runs twice counts twice.

    Attributes:
        rows: Rows with an outcome.
        failed: Those that failed.
        output_tokens: Tokens of the others.
    """

    rows: int = 0
    failed: int = 0
    output_tokens: int = 0

    def add(self, rows: int, failed: int, output_tokens: int) -> None:
        """Take note of rows that landed."""
        self.rows += rows
        self.failed += failed
        self.output_tokens += output_tokens

    def counts(self) -> tuple[int, int, int]:
        """Return rows, failed ones and output tokens."""
        return self.rows, self.failed, self.output_tokens


@dataclass(slots=True)
class _News:
    """What the tally has not been told yet."""

    tally: ActorHandle[Any]
    counts: tuple[int, int, int] = (0, 0, 0)
    told_at: float = field(default_factory=time.monotonic)

    def add(self, result: Mapping[str, Any]) -> None:
        rows, failed, tokens = self.counts
        self.counts = (rows + 1, failed + ("error_code" in result), tokens + result.get("output_tokens", 0))
        if time.monotonic() - self.told_at >= _TELL_S:
            self.tell()

    def tell(self) -> None:
        if any(self.counts):
            self.tally.add.remote(*self.counts)
        self.counts, self.told_at = (0, 0, 0), time.monotonic()


class RowGenerator:
    """Generates the rows of batches and writes them, several batches at once.

    It reaches the models as a gateway does: its tokenizer is here, tokens come from the replicas, and a generation
    whose replica is lost goes on at another one.

    Args:
        plan: What to do with rows.
    """

    def __init__(self, plan: GenerationPlan) -> None:
        self._plan = plan
        self._news = _News(plan.tally)
        self._telemetry = configure(plan.config.telemetry)
        self._registry = ModelRegistry([model.served_id for model in plan.config.models])
        workshop = BatchWorkshop(self._registry, HealthMonitor(self._registry, HealthConfig()))
        runner = RowRunner(workshop, plan.config.gateway.server.batch.runner_concurrency)
        self._generation = RowGeneration(plan.reader, runner, plan.run_id, plan.tenant, self._news.add)
        self._attaching: asyncio.Future[list[None]] | None = None

    async def __call__(self, batch: Table) -> Table:
        """Generate every row of a batch, write them, and return how many they were.

        Raises:
            Exception: A model cannot be reached for good, or the output cannot be written.
        """
        await self._start()
        try:
            told = await self._generation.run(batch)
        finally:
            self._news.tell()
        await asyncio.to_thread(write_rows, self._plan.folder, told)
        return pa.table([[batch.num_rows]], schema=_DONE)

    async def _start(self) -> None:
        """Wait until the models can be asked, but no longer than a gateway does before it listens."""
        if self._attaching is None:
            # Here, as it needs the event loop, which Ray Data starts late.
            self._attaching = self._attach()
        await asyncio.wait((self._attaching,), timeout=self._plan.config.gateway.listen_timeout_s)
        if self._attaching.done():
            self._attaching.result()

    def _attach(self) -> asyncio.Future[list[None]]:
        plan = self._plan
        ids = [model.served_id for model in plan.config.models]
        replicas = {one: serve.get_deployment_handle(f"model-{one}", plan.app) for one in ids}
        return attach_remote(self._registry, plan.config, plan.cache_dir, replicas, self._telemetry)
