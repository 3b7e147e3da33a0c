"""Steps of a tiny model that take as long as those of a larger one, and a record of when each one ended.

A step sleeps before it computes, so that the machine's time is left for what is measured: Ray, the gateway, the
scheduler and the clients.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from typing_extensions import override

_STEP_S, _RECORD = "QWIRE_BENCH_STEP_S", "QWIRE_BENCH_RECORD"
_ROOT = Path(__file__).parents[2]
_RUNNER = "qwire.engine.runner"


def runtime_env(step_s: float, record: Path) -> dict[str, Any]:
    """Return what makes the engines of Ray's worker processes slow.

    Args:
        step_s: How long each step sleeps, seconds.
        record: Takes a line for each step: when it ended, by the system's monotonic clock, and whom it was for.
    """
    hook = f"{__name__}.{slow_down.__name__}"
    # The hook runs before Ray tells a worker where the driver finds its modules.
    path = os.pathsep.join((str(_ROOT), *filter(None, (os.environ.get("PYTHONPATH"),))))  # noqa: TID251 - a worker's is made of it
    return {
        "worker_process_setup_hook": hook,
        "env_vars": {_STEP_S: str(step_s), _RECORD: str(record), "PYTHONPATH": path},
    }


def slow_down() -> None:
    """Slow this process's steps down, should it ever have any: only engines import the runner, which imports torch."""
    sys.meta_path.insert(0, _RunnerFinder())


class _RunnerFinder(MetaPathFinder):
    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _RUNNER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_slow_down(module: ModuleType) -> None:
            execute(module)
            _slow_down(module.ModelRunner)

        spec.loader.exec_module = execute_and_slow_down
        return spec


def _slow_down(runner: Any) -> None:
    environment = os.environ  # noqa: TID251 - all that a worker process is given before its actor
    step_s, record = float(environment[_STEP_S]), Path(environment[_RECORD]).open("a", buffering=1)  # noqa: SIM115 - as long as the process
    execute = runner.execute

    def slow(self: Any, plan: Any) -> Any:
        time.sleep(step_s)
        result = execute(self, plan)
        ids = (tokens.sequence.request_id for tokens in plan.scheduled)
        record.write(" ".join((str(time.monotonic()), *ids)) + "\n")
        return result

    runner.execute = slow
