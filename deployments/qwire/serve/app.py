"""The application builder: turns a configuration into Serve deployments."""

from __future__ import annotations

from ray import serve
from ray.serve import Application

from qwire.serve.config import AppConfig, ModelSettings
from qwire.serve.environment import cache_dir
from qwire.serve.gateway import Gateway
from qwire.serve.replica import ModelReplica

# Calls beyond what an engine runs and queues reach it all the same: it refuses them at once, with a reason and a time
# to come back, where Serve's router would let them wait.
_HEADROOM = 64
# Time that Serve leaves beyond the open streams for its own steps.
_SHUTDOWN_MARGIN_S = 15.0


def build(config: AppConfig) -> Application:
    """Build the application; what a Serve config file names as `import_path: qwire.serve.app:build`.

    Args:
        config: The whole application; Serve makes it of the file's `args` and refuses unknown keys.

    Returns:
        The gateway deployment, bound to one deployment per model.
    """
    grace_s = config.gateway.server.drain_grace_s + _SHUTDOWN_MARGIN_S
    files = cache_dir(config.cache_dir)
    replicas = {
        model.served_id: _replica_deployment(model, grace_s).bind(model, files, config.telemetry)
        for model in config.models
    }
    gateway = serve.deployment(
        name="gateway",
        num_replicas=config.gateway.num_replicas,
        max_replicas_per_node=config.gateway.max_replicas_per_node,  # pyright: ignore[reportArgumentType] - None is its default
        ray_actor_options={"num_cpus": config.gateway.num_cpus},
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.2,
    )(Gateway)
    return gateway.bind(config, files, replicas)


def _replica_deployment(model: ModelSettings, grace_s: float) -> serve.Deployment:
    settings = model.replicas
    most = model.engine.max_running + model.engine.max_waiting + model.engine.reserved_waiting
    return serve.deployment(
        name=f"model-{model.served_id}",
        max_ongoing_requests=most + _HEADROOM,
        max_queued_requests=most,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing_requests,
            "upscale_delay_s": settings.upscale_delay_s,
            "downscale_delay_s": settings.downscale_delay_s,
        },
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
    )(ModelReplica)
