"""The process environment: the only place that reads it or writes to it."""

from __future__ import annotations

import os
from pathlib import Path

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset, each actor without a GPU warns
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else a thread of Ray's that outlives a shutdown starts a cluster of its own
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten times a second costs a laptop a twelfth of a core
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy laptop needs more than 5 s
    "MALLOC_ARENA_MAX": "2",  # glibc's: with a heap for each of 40 threads, free memory between grows for hours
}


def cache_dir(configured: Path | None) -> Path:
    """Return where model files are kept: as configured, else `QWIRE_CACHE`, else `~/.cache/qwire`."""
    if configured is not None:
        return configured
    chosen = os.environ.get("QWIRE_CACHE")  # noqa: TID251 - this is the one place
    return Path(chosen) if chosen else Path.home() / ".cache" / "qwire"


def state_dir() -> Path:
    """Return where what must not be lost is kept on this machine: `QWIRE_STATE`, else `~/.local/state/qwire`."""
    chosen = os.environ.get("QWIRE_STATE")  # noqa: TID251 - this is the one place
    return Path(chosen) if chosen else Path.home() / ".local" / "state" / "qwire"


def prepare_ray() -> None:
    """Set switches that are environment variables only, unless the operator did; call before importing Ray."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - this is the one place
