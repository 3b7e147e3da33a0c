"""The configuration of the gRPC server, of its health monitor and of its batch jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """Files of the server's TLS identity, PEM.

    Attributes:
        certificate: The server's certificate, its chain behind it.
        key: The certificate's private key.
        client_ca: Certificates that clients must be signed by (mTLS). None = clients need no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """How often models are probed, and where trouble begins.

    Attributes:
        probe_interval_s: A model that gave no token for this long is asked for one, seconds, > 0.
        starting_interval_s: The same before a model's first token, seconds, > 0.
        probe_timeout_s: A probe that takes longer has failed, seconds, > 0.
        max_response_time_s: DEGRADED above this median time to a first token, seconds, > 0.
        min_generation_tokens_per_s: DEGRADED below this speed of a running generation, tokens per second, >= 0.
        max_memory_share: DEGRADED above this share of memory in use, in (0, 1].
        max_queue_share: DEGRADED above this share of the waiting queue in use, in (0, 1].
    """

    probe_interval_s: float = 10.0
    starting_interval_s: float = 0.5
    probe_timeout_s: float = 30.0
    max_response_time_s: float = 10.0
    min_generation_tokens_per_s: float = 1.0
    max_memory_share: float = 0.95
    max_queue_share: float = 0.9

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of its range.
        """
        _positive(self, "probe_interval_s", "starting_interval_s", "probe_timeout_s", "max_response_time_s")
        _share(self, "max_memory_share", "max_queue_share")
        if self.min_generation_tokens_per_s < 0:
            raise ValueError(f"min_generation_tokens_per_s must be >= 0, got {self.min_generation_tokens_per_s}")


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Where batch jobs are kept, and for how long.

    Attributes:
        store_url: `sqlite:////folder/jobs.db` or `postgresql://user@host/database`. Empty = there are no batch jobs:
            their service is not there. None = likewise, but where `qwire-serve` or a Serve config file starts the
            server it is the file `jobs-PORT.db` in `QWIRE_STATE`, or `~/.local/state/qwire`. A file serves the
            processes of one machine; gateways and runners on several machines need PostgreSQL.
        store_wait_s: How long a call waits for the store, for a connection or for another writer of a file, before the
            store counts as unavailable, seconds, > 0.
        default_retention_s: How long a job is kept after its end where its caller does not say, seconds, >= 60.
        max_retention_s: The longest that a caller may ask for, seconds, >= default_retention_s.
        max_open_s: A job that is not sealed within this time after its creation expires, seconds, >= 60.
        runner_concurrency: Items that one runner has under way at the most, >= 1.
        lease_s: A runner that gives no sign of life for so long is dead, and its items go to others, seconds, >= 1.
        checkpoint_s: How often the output of running items is kept, so that an interruption loses no more than that,
            seconds, > 0.
    """

    store_url: str | None = None
    store_wait_s: float = 30.0
    default_retention_s: float = 7 * 24 * 3600.0
    max_retention_s: float = 30 * 24 * 3600.0
    max_open_s: float = 24 * 3600.0
    runner_concurrency: int = 64
    lease_s: float = 30.0
    checkpoint_s: float = 5.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of its range.
        """
        _positive(self, "store_wait_s", "checkpoint_s")
        _at_least(self, default_retention_s=60, max_open_s=60, runner_concurrency=1, lease_s=1)
        _at_least(self, max_retention_s=self.default_retention_s)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Address, TLS, limits, keepalive and drain of the gRPC server.

    Attributes:
        host: Address to listen on. The default is loopback: other machines cannot connect.
        port: Port to listen on; 0 = any free one.
        reuse_port: Share the port with other servers of this machine (SO_REUSEPORT).
        tls: TLS identity; None = plain text.
        max_message_bytes: Largest request message, bytes, >= 1024.
        max_response_bytes: Largest response message with whole generations, bytes, >= 1024. gRPC clients accept 4 MiB
            unless told otherwise.
        max_metadata_bytes: Largest request metadata, bytes, >= 1024.
        max_concurrent_streams: Calls at once on one connection, >= 1. Keep it above what the engines run and queue:
            gRPC refuses a burst beyond it without a reason, the engines refuse it with one.
        max_open_calls: Calls with a model at once on all connections, >= 1; more are refused with OVERLOADED before
            anything is done for them. Keep it above what the engines run and queue.
        keepalive_time_s: Idle time after which a connection is pinged, seconds, > 0.
        keepalive_timeout_s: A connection that does not answer a ping for this long is dead, seconds, > 0.
        min_ping_interval_s: Clients that ping more often are disconnected, seconds, > 0.
        max_connection_idle_s: A connection without calls is closed after this, seconds, > 0.
        max_connection_age_s: A connection is asked to reconnect after this, so that clients spread over new servers,
            seconds, > 0. Its open calls may go on for `max_deadline_s`.
        default_deadline_s: Deadline of a call that has none of its own, seconds, > 0.
        max_deadline_s: The server ends every generation after this, whatever deadline its caller set, seconds,
            >= default_deadline_s.
        write_stall_timeout_s: A caller that takes no message of its stream for this long is not waited for: the
            generation ends, and the call with SLOW_READER, seconds, > 0.
        max_stream_buffer_bytes: How much of one generation is read ahead of a slow caller, bytes, >= 0. A generation
            that ends within it frees its place in the engine for others, however slowly its caller reads.
        max_buffer_bytes: The same of all calls together, bytes, >= 0.
        tenant_key: Metadata key by which callers name themselves, to share fairly with others; a name has 1 to 64
            letters, digits and characters of `. _ : @ / -`, and who has none is of the nameless tenant. Lower case;
            empty = nobody has. Nothing proves a name: where callers do not trust each other, have a proxy set it.
        batch_concurrency: Items of one batch call that run at once, >= 1; more wait for them.
        drain_grace_s: How long open calls may go on once the server drains, seconds, >= 0.
        drain_notice_s: How long of that the server still takes new calls while its health says NOT_SERVING, so that
            whoever balances the load can turn away in time, seconds, >= 0. After it, a server that shares its port
            (`reuse_port`) closes the port and has its clients reconnect, elsewhere; one that does not refuses.
        health: How models are probed and judged.
        batch: Where batch jobs are kept.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    reuse_port: bool = True
    tls: TLSConfig | None = None
    max_message_bytes: int = 4 * 1024 * 1024
    max_response_bytes: int = 4 * 1024 * 1024
    max_metadata_bytes: int = 16 * 1024
    max_concurrent_streams: int = 1024
    max_open_calls: int = 4096
    keepalive_time_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    min_ping_interval_s: float = 10.0
    max_connection_idle_s: float = 900.0
    max_connection_age_s: float = 1800.0
    default_deadline_s: float = 600.0
    max_deadline_s: float = 3600.0
    write_stall_timeout_s: float = 30.0
    max_stream_buffer_bytes: int = 1024 * 1024
    max_buffer_bytes: int = 64 * 1024 * 1024
    tenant_key: str = "x-qwire-tenant"
    batch_concurrency: int = 16
    drain_grace_s: float = 600.0
    drain_notice_s: float = 1.0
    health: HealthConfig = field(default_factory=HealthConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of its range.
        """
        _positive(self, "keepalive_time_s", "keepalive_timeout_s", "min_ping_interval_s", "max_connection_idle_s")
        _positive(self, "max_connection_age_s", "default_deadline_s", "write_stall_timeout_s")
        _at_least(self, max_message_bytes=1024, max_response_bytes=1024, max_metadata_bytes=1024)
        _at_least(self, max_concurrent_streams=1, max_open_calls=1, batch_concurrency=1)
        _at_least(self, max_deadline_s=self.default_deadline_s, drain_grace_s=0, port=0)
        _at_least(self, max_stream_buffer_bytes=0, max_buffer_bytes=0, drain_notice_s=0)
        if not _METADATA_KEY.fullmatch(self.tenant_key):
            raise ValueError(f"tenant_key must be a lower-case metadata key or empty, got {self.tenant_key!r}")
        if self.port > _MAX_PORT:
            raise ValueError(f"port must be at most {_MAX_PORT}, got {self.port}")


_MAX_PORT = 65_535
_METADATA_KEY = re.compile(r"(?!grpc-)[a-z0-9_.-]*(?<!-bin)")


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be > 0, got {getattr(config, name)}")


def _share(config: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name} must be in (0, 1], got {getattr(config, name)}")


def _at_least(config: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        if not getattr(config, name) >= bound:
            raise ValueError(f"{name} must be >= {bound:g}, got {getattr(config, name)}")
