"""The gRPC server: its services, its limits, its start and its end."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from qwire.batch.database import Database
from qwire.batch.item_store import ItemStore
from qwire.batch.migration import migrate
from qwire.batch.store import JobStore
from qwire.rpc.batch import BatchService
from qwire.rpc.batch_jobs import BatchJobService
from qwire.rpc.config import ServerConfig, TLSConfig
from qwire.rpc.generate import GenerateService
from qwire.rpc.guard import CallGuard
from qwire.rpc.health import HealthService
from qwire.rpc.models import ModelService
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.open_calls import OpenCalls
from qwire.rpc.reflection import add_reflection
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.standard_health import StandardHealth
from qwire.rpc.tracing import TracingInterceptor
from qwire.telemetry.logging import get_logger
from qwire.telemetry.setup import Telemetry
from qwire.text.read_ahead import BufferBudget
from qwire.v1 import batch_job_pb2_grpc, batch_pb2_grpc, generate_pb2_grpc, model_pb2_grpc
from qwire.v1 import health_pb2_grpc as qwire_health_pb2_grpc

__all__ = ["GatewayServer", "ServerConfig"]

log = get_logger(__name__)

SERVICES = (
    "qwire.v1.BatchService",
    "qwire.v1.GenerateService",
    "qwire.v1.HealthService",
    "qwire.v1.ModelService",
)
JOBS = "qwire.v1.BatchJobService"
"""Only where there is a job store."""
STANDARD_HEALTH = "grpc.health.v1.Health"

_FLUSH_S = 2.0
"""How long the last statuses of ended calls may take to reach their callers."""

_CORE_MESSAGE_FACTOR = 4
"""gRPC itself refuses messages beyond this many times the limit, with RESOURCE_EXHAUSTED but without details; from the
limit up to here the guard refuses them and says why."""


class GatewayServer:
    """Serves the models of a registry.

    It listens before any model is there: calls are refused with UNAVAILABLE until theirs is added to the registry.

    Args:
        registry: The models; may be filled later.
        config: Address, TLS, limits.
        telemetry: Where spans and measurements go; None = nowhere.
    """

    def __init__(self, registry: ModelRegistry, config: ServerConfig, telemetry: Telemetry | None = None) -> None:
        telemetry = telemetry or Telemetry.disabled()
        self._config = config
        self._budget = BufferBudget(config.max_buffer_bytes, config.max_stream_buffer_bytes)
        telemetry.metrics.observe_buffered(lambda: self.buffered_bytes)
        self._open_calls = OpenCalls()
        self._guard = CallGuard(config, self._open_calls)
        self._draining = False
        self._drained = asyncio.Event()
        self.health = HealthMonitor(registry, config.health)
        self._server = grpc.aio.server(
            interceptors=(TracingInterceptor(telemetry), self._guard),
            options=_options(config),
        )
        self._database: Database | None = None
        self._jobs: BatchJobService | None = None
        if config.batch.store_url:
            database = self._database = Database(config.batch.store_url, wait_s=config.batch.store_wait_s)
            self._jobs = BatchJobService(registry, JobStore(database), ItemStore(database), config.batch)
        self._add_services(registry)

    @property
    def open_streams(self) -> int:
        """Calls that use a model and are open."""
        return len(self._open_calls)

    @property
    def buffered_bytes(self) -> int:
        """What generations hold that their callers have not taken yet, bytes."""
        return self._budget.used_bytes

    async def start(self) -> int:
        """Listen, and begin to watch the models.

        Returns:
            The port.

        Raises:
            RuntimeError: The address cannot be listened on.
            OSError: A TLS file cannot be read.
            StoreUnavailable: The job store cannot be reached.
            ValueError: The job store was made by a newer version.
        """
        try:
            return await self._start()
        except BaseException:
            if self._database is not None:
                await self._database.close()
            raise

    async def drain(self, grace_s: float | None = None) -> None:
        """Say DRAINING, then take no new calls, let open ones finish, stop. A second call waits for the first.

        Calls that are still open after the grace end with UNAVAILABLE; their callers may go on elsewhere.

        Args:
            grace_s: How long open calls may go on, seconds; None = `ServerConfig.drain_grace_s`.
        """
        if self._draining:
            await self._drained.wait()
            return
        self._draining = True
        try:
            await self._drain(self._config.drain_grace_s if grace_s is None else grace_s)
        finally:
            self._drained.set()

    async def _start(self) -> int:
        config = self._config
        if self._database is not None:
            await migrate(self._database)
        address = f"{config.host}:{config.port}"
        if config.tls is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, _credentials(config.tls))
        await self._server.start()
        self.health.start()
        log.info("server_started", host=config.host, port=port, tls=config.tls is not None)
        return port

    async def _drain(self, grace_s: float) -> None:
        log.info("server_draining", open_calls=self.open_streams, grace_s=grace_s)
        self.health.drain()
        notice_s = min(self._config.drain_notice_s, grace_s)
        await asyncio.sleep(notice_s)
        if self._config.reuse_port:
            # Closes the port at once, so that the system gives new connections to the others, and asks clients to
            # reconnect. Open calls go on; here they end before gRPC's own grace does.
            leaving = asyncio.create_task(self._server.stop(grace_s + _FLUSH_S))
        else:
            self._guard.draining, leaving = True, None
        if not await self._open_calls.wait_idle(grace_s - notice_s):
            log.warning("calls_evicted", calls=await self._open_calls.evict())
        if self._jobs is not None:
            self._jobs.drain()
        await self.health.close()
        await self._server.stop(_FLUSH_S)
        if leaving is not None:
            await leaving
        if self._database is not None:
            await self._database.close()
        log.info("server_stopped")

    def _add_services(self, registry: ModelRegistry) -> None:
        server, health = self._server, self.health
        config = self._config
        generate = GenerateService(registry, health, self._budget, config.max_response_bytes)
        generate_pb2_grpc.add_GenerateServiceServicer_to_server(generate, server)
        batch = BatchService(
            *(registry, health, self._budget),
            concurrency=config.batch_concurrency,
            max_response_bytes=config.max_response_bytes,
        )
        batch_pb2_grpc.add_BatchServiceServicer_to_server(batch, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(registry), server)
        qwire_health_pb2_grpc.add_HealthServiceServicer_to_server(HealthService(registry, health), server)
        services = SERVICES
        if self._jobs is not None:
            batch_job_pb2_grpc.add_BatchJobServiceServicer_to_server(self._jobs, server)
            services = (*SERVICES, JOBS)
        health_pb2_grpc.add_HealthServicer_to_server(StandardHealth(health, services), server)
        add_reflection(server, (*services, STANDARD_HEALTH))


def _credentials(tls: TLSConfig) -> grpc.ServerCredentials:
    client_ca = None if tls.client_ca is None else tls.client_ca.read_bytes()
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _options(config: ServerConfig) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.so_reuseport", int(config.reuse_port)),
        ("grpc.max_receive_message_length", config.max_message_bytes * _CORE_MESSAGE_FACTOR),
        ("grpc.max_metadata_size", config.max_metadata_bytes),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.keepalive_time_ms", _ms(config.keepalive_time_s)),
        ("grpc.keepalive_timeout_ms", _ms(config.keepalive_timeout_s)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(config.min_ping_interval_s)),
        # As often where no call is open: else gRPC cuts off clients that keep their connection, after three pings.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", _ms(config.max_connection_idle_s)),
        ("grpc.max_connection_age_ms", _ms(config.max_connection_age_s)),
        # No call lasts longer than this, so none is cut.
        ("grpc.max_connection_age_grace_ms", _ms(config.max_deadline_s)),
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
