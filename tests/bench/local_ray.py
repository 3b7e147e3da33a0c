"""Ray and Serve on this machine for the time of a benchmark or of cluster tests."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from qwire.serve.environment import prepare_ray

_ATTEMPTS = 3


@contextmanager
def local_ray(runtime_env: dict[str, Any] | None = None, ray_config: dict[str, Any] | None = None) -> Generator[None]:
    """Start both without an application, and stop them. Ray gives up after 30 s, which a busy machine can need.

    Args:
        runtime_env: Of all worker processes, as Ray takes it.
        ray_config: Settings of Ray's own processes.
    """
    prepare_ray()
    import ray  # noqa: PLC0415 - reads its environment when it is imported
    from ray import serve  # noqa: PLC0415 - likewise

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(
                "local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=runtime_env,
                _system_config=ray_config or {},
            )
            break
        except Exception:
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()
