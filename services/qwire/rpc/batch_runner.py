"""The runner of batch jobs, on the models of a registry."""

from __future__ import annotations

from qwire.batch.database import Database
from qwire.batch.lease_store import LeaseStore
from qwire.batch.migration import migrate
from qwire.batch.runner import JobRunner, RunnerConfig
from qwire.rpc.batch_workshop import BatchWorkshop
from qwire.rpc.config import BatchConfig, HealthConfig
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)


class BatchRunner:
    """Works on the jobs of a store as long as it runs.

    Args:
        registry: The models; may be filled later: items wait for theirs.
        config: Where the jobs are, and how it works on them.

    Raises:
        ValueError: The configuration names no store.
    """

    def __init__(self, registry: ModelRegistry, config: BatchConfig) -> None:
        if not config.store_url:
            raise ValueError("batch.store_url is not set; a batch runner needs a job store")
        self._database = Database(config.store_url, wait_s=config.store_wait_s)
        workshop = BatchWorkshop(registry, HealthMonitor(registry, HealthConfig()))
        self._runner = JobRunner(
            LeaseStore(self._database, int(config.lease_s * 1e9)),
            workshop,
            RunnerConfig(config.runner_concurrency, config.lease_s, config.checkpoint_s, config.max_open_s),
        )

    @property
    def running(self) -> int:
        """Items under way."""
        return self._runner.running

    async def start(self) -> None:
        """Begin to work.

        Raises:
            StoreUnavailable: The job store cannot be reached.
            ValueError: It was made by a newer version.
        """
        try:
            await migrate(self._database)
        except BaseException:
            await self._database.close()
            raise
        self._runner.start()
        log.info("batch_runner_started", runner=self._runner.id)

    async def close(self) -> None:
        """Stop at once: items under way keep what they have, and go to others."""
        await self._runner.close()
        await self._database.close()
        log.info("batch_runner_stopped", runner=self._runner.id)
