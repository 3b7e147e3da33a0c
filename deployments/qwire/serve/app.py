"""The application builder: turns a configuration into Serve deployments."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from qwire.engine.config import PAGE_TOKENS
from qwire.serve.autoscaling import ScalingLimits
from qwire.serve.batch_worker import BatchWorker
from qwire.serve.config import AppConfig, ModelSettings
from qwire.serve.environment import cache_dir, state_dir
from qwire.serve.gateway import Gateway
from qwire.serve.replica import ModelReplica
from qwire.serve.router import ReplicaRouter
from qwire.serve.scaling import GatewayScaling, ModelScaling

# Calls beyond what an engine runs and queues reach it all the same: it refuses them at once, with a reason and a time
# to come back, where Serve's router would let them wait.
_HEADROOM = 64
# Time that Serve leaves beyond the open streams for its own steps.
_SHUTDOWN_MARGIN_S = 15.0
# How often replicas tell their load, and for how long Serve adds up what waits at gateways. Its default of ten seconds
# is later than a queue fills.
_REPORT_INTERVAL_S = 1.0
_LOOK_BACK_S = 5.0


def build(config: AppConfig) -> Application:
    """Build the application; what a Serve config file names as `import_path: qwire.serve.app:build`.

    Args:
        config: The whole application; Serve makes it of the file's `args` and refuses unknown keys.

    Returns:
        The gateway deployment, bound to one deployment per model, and to the runners of batch jobs.
    """
    config = config.with_job_store(state_dir())
    grace_s = config.gateway.server.drain_grace_s + _SHUTDOWN_MARGIN_S
    files = cache_dir(config.cache_dir)
    replicas = {
        model.served_id: _replica_deployment(model, grace_s).bind(model, files, config.telemetry)
        for model in config.models
    }
    settings = config.gateway
    gateway = serve.deployment(
        name="gateway",
        autoscaling_config=_autoscaling(
            settings.limits, GatewayScaling, target_open_streams=settings.target_open_streams
        ),
        max_replicas_per_node=settings.max_replicas_per_node,  # pyright: ignore[reportArgumentType] - None is its default
        ray_actor_options={"num_cpus": settings.num_cpus},
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.2,
        # A new one listens before an old one goes. With one per node there is no room for that.
        max_surge_percent=100 if settings.max_replicas_per_node is None else 0,
    )(Gateway)
    runners = None
    if config.gateway.server.batch.store_url:
        runners = _batch_deployment(config).bind(config, files, replicas)
    return gateway.bind(config, files, replicas, runners)


def _batch_deployment(config: AppConfig) -> serve.Deployment:
    return serve.deployment(
        name="batch",
        num_replicas=config.batch_runners,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=_SHUTDOWN_MARGIN_S,
        graceful_shutdown_wait_loop_s=0.2,
    )(BatchWorker)


def _replica_deployment(model: ModelSettings, grace_s: float) -> serve.Deployment:
    settings, engine = model.replicas, model.engine
    most = engine.max_running + engine.max_waiting + engine.reserved_waiting
    if engine.adapters_dir is not None:
        most += engine.max_waiting  # who waits for an adapter is in another line
    return serve.deployment(
        name=f"model-{model.served_id}",
        max_ongoing_requests=most + _HEADROOM,
        max_queued_requests=most,
        autoscaling_config=_autoscaling(settings.limits, ModelScaling, targets=asdict(settings.targets)),
        request_router_config=_routing(model),
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        max_surge_percent=settings.surge_percent,
    )(ModelReplica)


def _routing(model: ModelSettings) -> RequestRouterConfig:
    options: dict[str, Any] = {  # its own annotations take no class
        "request_router_class": ReplicaRouter,
        "request_router_kwargs": {
            "by_prefix": model.replicas.routing == "prefix",
            "slack": model.replicas.prefix_slack,
            "page_tokens": model.engine.page_tokens or PAGE_TOKENS,
        },
    }
    return RequestRouterConfig(**options)


def _autoscaling(limits: ScalingLimits, policy: type, **arguments: Any) -> AutoscalingConfig:
    """Return Serve's settings around a policy that has delays of its own."""
    with warnings.catch_warnings():
        # The variables that are to replace it are read by no part of Ray 2.60.
        warnings.filterwarnings("ignore", ".*metrics_interval_s", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=limits.min_replicas,
            max_replicas=limits.max_replicas,
            upscale_delay_s=0,
            downscale_delay_s=0,
            metrics_interval_s=_REPORT_INTERVAL_S,
            look_back_period_s=_LOOK_BACK_S,
            policy=AutoscalingPolicy(policy_function=policy, policy_kwargs={"limits": asdict(limits), **arguments}),
        )
