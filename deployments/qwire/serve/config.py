"""The configuration of an application: one pydantic model, the same in a Serve config file and on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator, with_config

from qwire.engine.config import EngineConfig
from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.rpc.config import BatchConfig, HealthConfig, ServerConfig, TLSConfig
from qwire.serve.autoscaling import ScalingLimits
from qwire.serve.demand import LoadTargets
from qwire.telemetry.setup import TelemetryConfig

_STRICT = ConfigDict(extra="forbid")
# The rooms define their own configuration as plain dataclasses; here an unknown key in a file becomes an error.
for _settings in (BatchConfig, EngineConfig, HealthConfig, ServerConfig, TelemetryConfig, TLSConfig):
    with_config(_STRICT)(_settings)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplicaSettings(_Settings):
    """How many replicas of a model run, and what each one needs."""

    min_replicas: int = Field(default=1, ge=0)
    """Replicas that always run. 0 = none once nobody has asked for `scale_to_zero_delay_s`; the next request waits for
    one to start."""
    max_replicas: int = Field(default=1, ge=1)
    """The most replicas."""
    target_tokens: float = Field(default=8192.0, gt=0)
    """Tokens per replica that autoscaling aims at: those of running generations, and of waiting ones up to their output
    limits."""
    target_queue_wait_s: float = Field(default=2.0, ge=0)
    """One more replica is needed where a generation waits in the queue for longer than this, seconds."""
    target_kv_use: float = Field(default=0.8, gt=0, le=1)
    """Share of the KV cache in use per replica that autoscaling aims at."""
    min_decode_tokens_per_s: float = Field(default=0.0, ge=0)
    """One more is needed where a generation decodes slower than this, tokens per second. 0 = any speed will do."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """How long the load must last before replicas are added, seconds."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """How long the load must be gone before replicas are taken away, seconds."""
    scale_to_zero_delay_s: float = Field(default=600.0, ge=0)
    """How long nobody must have asked for anything before the last replica goes, seconds; where `min_replicas` is 0."""
    surge_percent: int = Field(default=0, ge=0, le=100)
    """Share of the replicas that an update starts before it stops old ones, percent, rounded up. 0 = old ones go first:
    no spare GPU is needed, and a single replica means a pause in which requests wait."""
    routing: Literal["prefix", "load"] = "prefix"
    """Which replica a request goes to: the one that has seen the beginning of its prompt, else the less loaded of two;
    or always the latter."""
    prefix_slack: int = Field(default=4, ge=0)
    """With `prefix`: the replica that has seen the beginning is passed over while it has more than this many requests
    above the least loaded one."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of each replica; 0 = none, as on a laptop."""
    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray reserves for each replica. Does not bound its threads; `engine.threads` does."""
    stall_timeout_s: float = Field(default=120.0, gt=0)
    """A replica whose engine has work but takes no step for this long is restarted, seconds."""
    failover_timeout_s: float = Field(default=60.0, ge=0)
    """How long a generation whose replica is lost looks for another one that takes it, seconds, within its deadline; it
    goes on where it was. 0 = it ends with UNAVAILABLE at once."""
    failover_attempts: int = Field(default=20, ge=1)
    """How many times in a row such a generation tries without getting a token."""
    failover_losses: int = Field(default=8, ge=1)
    """How many replicas one generation may lose in all before it ends with INTERNAL (REPLICAS_LOST), which no client
    asks for again by itself: one that brings down whichever replica computes it must not go through all of them."""
    stream_interval_s: float = Field(default=0.02, ge=0)
    """Least time between two messages of one stream from a replica to a gateway, seconds; tokens in between share a
    message. The first token never waits. 0 = a message per step."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            msg = f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})"
            raise ValueError(msg)
        return self

    @property
    def limits(self) -> ScalingLimits:
        """How far and how fast their number changes."""
        return ScalingLimits(
            self.min_replicas,
            self.max_replicas,
            self.upscale_delay_s,
            self.downscale_delay_s,
            self.scale_to_zero_delay_s,
        )

    @property
    def targets(self) -> LoadTargets:
        """What each one shall carry."""
        return LoadTargets(
            self.target_tokens, self.target_queue_wait_s, self.target_kv_use, self.min_decode_tokens_per_s
        )


class ModelSettings(_Settings):
    """One served model."""

    source: str = DEFAULT_MODEL_ID
    """Where it comes from: a catalogue id, a local folder, or a hub name `org/name[@revision]`."""
    id: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,128}$")
    """The id that requests name. Empty = the catalogue id, or the last part of the source, without the revision."""
    engine: EngineConfig = EngineConfig()
    """How it runs: device, quantization, limits."""
    draft_source: str = ""
    """Where the draft model comes from, named like `source`: a smaller model of the same vocabulary, for
    `engine.speculation: draft-model` and for nothing else. Empty = none."""
    replicas: ReplicaSettings = ReplicaSettings()
    """How often it runs."""

    @model_validator(mode="after")
    def _drafts_where_it_says_so(self) -> Self:
        if bool(self.draft_source) != (self.engine.speculation == "draft-model"):
            msg = (
                f"draft_source is {self.draft_source!r} and engine.speculation is {self.engine.speculation!r}; "
                "draft-model needs a source, and only draft-model does"
            )
            raise ValueError(msg)
        return self

    def engine_in(self, cache_dir: Path) -> EngineConfig:
        """Return how it runs, with kernel and quantized weights beside the model files unless configured otherwise."""
        engine = self.engine
        return replace(
            engine,
            kernel_dir=engine.kernel_dir or cache_dir / "kernels",
            packed_dir=engine.packed_dir or cache_dir / "packed",
        )

    @property
    def served_id(self) -> str:
        """The id that requests name."""
        return self.id or self.source.rstrip("/").rsplit("/", 1)[-1].split("@", 1)[0]


class GatewaySettings(_Settings):
    """The gRPC edge."""

    server: ServerConfig = ServerConfig()
    """Address, TLS, limits, keepalive, drain."""
    min_replicas: int = Field(default=1, ge=1)
    """Gateways that always run. Those on one node share the port (SO_REUSEPORT)."""
    max_replicas: int = Field(default=1, ge=1)
    """The most gateways."""
    target_open_streams: float = Field(default=256.0, gt=0)
    """Open calls per gateway that autoscaling aims at."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """How long the load must last before gateways are added, seconds."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """How long the load must be gone before gateways are taken away, seconds."""
    listen_timeout_s: float = Field(default=120.0, ge=0)
    """A gateway listens once all its models have a replica, so that an update takes no calls that it cannot serve;
    after this many seconds it listens without those that are missing, for the sake of the others."""
    max_replicas_per_node: int | None = Field(default=None, ge=1)
    """The most gateways on one node; 1 spreads them over the cluster. Unset = no bound."""
    num_cpus: float = Field(default=0.0, ge=0)
    """CPUs that Ray reserves for each gateway."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            msg = f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})"
            raise ValueError(msg)
        return self

    @property
    def limits(self) -> ScalingLimits:
        """How far and how fast their number changes; the last one never goes."""
        return ScalingLimits(
            self.min_replicas,
            self.max_replicas,
            self.upscale_delay_s,
            self.downscale_delay_s,
            self.downscale_delay_s,
        )


class AppConfig(_Settings):
    """A whole application: a gateway in front of one or several models."""

    models: tuple[ModelSettings, ...] = Field(default=(ModelSettings(),), min_length=1)
    """The served models, each id once."""
    gateway: GatewaySettings = GatewaySettings()
    """The edge."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Traces, metrics and logs."""
    batch_runners: int = Field(default=1, ge=1)
    """Processes that work on batch jobs, where there is a job store (`gateway.server.batch`)."""
    cache_dir: Path | None = None
    """Where model files are kept. Unset = `QWIRE_CACHE`, or `~/.cache/qwire`."""

    def with_job_store(self, state_dir: Path) -> AppConfig:
        """Return the same with batch jobs in a file of this folder, unless it says where they are.

        The file is named after the port: another server on this machine, with other models, has another one.
        """
        server = self.gateway.server
        if server.batch.store_url is not None:
            return self
        batch = replace(server.batch, store_url=f"sqlite:///{state_dir.absolute()}/jobs-{server.port}.db")
        gateway = self.gateway.model_copy(update={"server": replace(server, batch=batch)})
        return self.model_copy(update={"gateway": gateway})

    @model_validator(mode="after")
    def _store_is_shared(self) -> Self:
        store_url, gateway = self.gateway.server.batch.store_url, self.gateway
        spread = gateway.max_replicas_per_node is not None and gateway.max_replicas > gateway.max_replicas_per_node
        if spread and (store_url is None or store_url.startswith("sqlite")):
            msg = (
                "gateway.server.batch.store_url: a file serves one machine, and gateways are spread over several: it "
                "must be PostgreSQL, or empty for no batch jobs"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [model.served_id for model in self.models]
        if len(set(ids)) != len(ids):
            msg = f"models: every id must occur once, got {ids}; set `id` where two sources end alike"
            raise ValueError(msg)
        return self
