"""A whole cluster on this machine: starts Ray, deploys the application, serves, drains, and leaves nothing behind."""

from __future__ import annotations

import io
import logging
from contextlib import nullcontext, redirect_stdout

from qwire.serve.config import AppConfig
from qwire.serve.environment import prepare_ray
from qwire.serve.startup import ServeUntilStopped, StartError, Startup

_MARGIN_S = 10.0  # what the drain call may take beyond the grace of the open streams


def serve_with_ray(
    config: AppConfig, startup: Startup, serve_until_stopped: ServeUntilStopped, *, verbose: bool
) -> None:
    """Start, call `serve_until_stopped` once everything is deployed, then drain and stop.

    Args:
        config: The application.
        startup: Where phases are shown.
        serve_until_stopped: Returns when serving shall end.
        verbose: Show Ray's and the replicas' log lines.

    Raises:
        StartError: The application could not be deployed.
    """
    prepare_ray()
    import ray  # noqa: PLC0415 - reads its environment when it is imported
    from ray import serve  # noqa: PLC0415 - likewise

    from qwire.serve.app import build  # noqa: PLC0415 - likewise

    if not verbose:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        with startup.phase("start Ray"):
            ray.init(
                address="local",  # a cluster of its own, whatever else runs here
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
            )
            serve.start(proxy_location="Disabled", logging_config={"log_level": "INFO" if verbose else "ERROR"})
        with startup.phase("deploy, load weights"):
            try:
                serve.run(build(config), name="qwire", route_prefix=None)
            except RuntimeError as error:
                raise StartError(str(error)) from error
        gateways = serve.get_app_handle("qwire")
        serve_until_stopped(lambda: all(gateways.broadcast("serves").results(timeout_s=_MARGIN_S)))
        with startup.phase("drain"):
            gateways.broadcast("drain").results(timeout_s=config.gateway.server.drain_grace_s + _MARGIN_S)
    finally:
        # Ray tells on stdout that its own controller was stopped.
        with startup.phase("stop Ray"), nullcontext() if verbose else redirect_stdout(io.StringIO()):
            serve.shutdown()
            ray.shutdown()
