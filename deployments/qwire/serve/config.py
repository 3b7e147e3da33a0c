"""The configuration of an application: one pydantic model, the same in a Serve config file and on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator, with_config

from qwire.engine.config import EngineConfig
from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.rpc.config import HealthConfig, ServerConfig, TLSConfig
from qwire.telemetry.setup import TelemetryConfig

_STRICT = ConfigDict(extra="forbid")
# The rooms define their own configuration as plain dataclasses; here an unknown key in a file becomes an error.
for _settings in (EngineConfig, HealthConfig, ServerConfig, TelemetryConfig, TLSConfig):
    with_config(_STRICT)(_settings)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplicaSettings(_Settings):
    """How many replicas of a model run, and what each one needs."""

    min_replicas: int = Field(default=1, ge=1)
    """Replicas that always run."""
    max_replicas: int = Field(default=1, ge=1)
    """The most replicas."""
    target_ongoing_requests: float = Field(default=8.0, gt=0)
    """Requests (running and waiting) per replica that autoscaling aims at."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """How long the load must last before replicas are added, seconds."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """How long the load must be gone before replicas are taken away, seconds."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of each replica; 0 = none, as on a laptop."""
    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray reserves for each replica. Does not bound its threads; `engine.threads` does."""
    stall_timeout_s: float = Field(default=120.0, gt=0)
    """A replica whose engine has work but takes no step for this long is restarted, seconds."""
    failover_timeout_s: float = Field(default=60.0, ge=0)
    """How long a generation whose replica is lost looks for another one without getting a token, seconds, within its
    deadline; it goes on where it was. 0 = it ends with UNAVAILABLE at once."""
    failover_attempts: int = Field(default=20, ge=1)
    """How many replicas in a row such a generation tries without getting a token from one."""
    stream_interval_s: float = Field(default=0.02, ge=0)
    """Least time between two messages of one stream from a replica to a gateway, seconds; tokens in between share a
    message. The first token never waits. 0 = a message per step."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            msg = f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})"
            raise ValueError(msg)
        return self


class ModelSettings(_Settings):
    """One served model."""

    source: str = DEFAULT_MODEL_ID
    """Where it comes from: a catalogue id, a local folder, or a hub name `org/name[@revision]`."""
    id: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,128}$")
    """The id that requests name. Empty = the catalogue id, or the last part of the source, without the revision."""
    engine: EngineConfig = EngineConfig()
    """How it runs: device, quantization, limits."""
    replicas: ReplicaSettings = ReplicaSettings()
    """How often it runs."""

    def engine_in(self, cache_dir: Path) -> EngineConfig:
        """Return how it runs, with its compiled kernel beside the model files unless another place is configured."""
        return replace(self.engine, kernel_dir=self.engine.kernel_dir or cache_dir / "kernels")

    @property
    def served_id(self) -> str:
        """The id that requests name."""
        return self.id or self.source.rstrip("/").rsplit("/", 1)[-1].split("@", 1)[0]


class GatewaySettings(_Settings):
    """The gRPC edge."""

    server: ServerConfig = ServerConfig()
    """Address, TLS, limits, keepalive, drain."""
    num_replicas: int = Field(default=1, ge=1)
    """Gateways. Those on one node share the port (SO_REUSEPORT)."""
    max_replicas_per_node: int | None = Field(default=None, ge=1)
    """The most gateways on one node; 1 spreads them over the cluster. Unset = no bound."""
    num_cpus: float = Field(default=0.0, ge=0)
    """CPUs that Ray reserves for each gateway."""


class AppConfig(_Settings):
    """A whole application: a gateway in front of one or several models."""

    models: tuple[ModelSettings, ...] = Field(default=(ModelSettings(),), min_length=1)
    """The served models, each id once."""
    gateway: GatewaySettings = GatewaySettings()
    """The edge."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Traces, metrics and logs."""
    cache_dir: Path | None = None
    """Where model files are kept. Unset = `QWIRE_CACHE`, or `~/.cache/qwire`."""

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [model.served_id for model in self.models]
        if len(set(ids)) != len(ids):
            msg = f"models: every id must occur once, got {ids}; set `id` where two sources end alike"
            raise ValueError(msg)
        return self
