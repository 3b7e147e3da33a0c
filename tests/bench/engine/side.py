"""A side of the comparison: a process of its own, so that its memory is its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.bench.engine.run import Run
from tests.bench.engine.workload import Workload


class SideFailed(Exception):
    """A side could not be started, or ended; the text says where its log is."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a side is started.

    Attributes:
        line: Program and arguments.
        environment: Variables beside those of this process; an empty value removes one.
        folder: Where it runs; None = here.
    """

    line: Sequence[str]
    environment: Mapping[str, str]
    folder: Path | None = None


class Side:
    """A running side, which reads workloads and writes answers as JSON lines. A context manager.

    It writes `{"state": "starting"}` before it loads its model and `{"state": "ready"}` after; what it reads and writes
    then is told in `programs/answering.py`.

    Attributes:
        name: Stands in the tables.
        before_bytes: Memory before the model was loaded, of the process and all that it started.
        loaded_bytes: The same, after.

    Args:
        name: See the attribute.
        command: Starts it.
        logs: Folder for what it writes besides.

    Raises:
        SideFailed: It ended before it was ready.
    """

    def __init__(self, name: str, command: Command, logs: Path) -> None:
        self.name = name
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{name}.log"
        environment = {**os.environ, **command.environment}  # noqa: TID251 - what the side is started with
        environment = {key: value for key, value in environment.items() if value}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command.line,
                cwd=command.folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        try:
            self._read()
            self.before_bytes = self._memory("VmRSS")
            self._read()
            self.loaded_bytes = self._memory("VmRSS")
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, workload: Workload) -> Run:
        """Answer a workload.

        Raises:
            SideFailed: The side ended.
            LostTokens: It answered with other lengths than asked for.
        """
        try:
            self._stdin.write(json.dumps({"requests": workload.as_json()}) + "\n")
            self._stdin.flush()
        except OSError as error:
            raise SideFailed(f"{self.name} ended: {self._log}") from error
        return Run.of(workload, self._read())

    def peak_bytes(self) -> int:
        """Return the most memory so far, of the process and all that it started, each at its own highest."""
        return self._memory("VmHWM")

    def device_bytes(self) -> int | None:
        """Return the most memory so far of the accelerator; None = the side has none or does not tell."""
        self._stdin.write(json.dumps({"memory": True}) + "\n")
        self._stdin.flush()
        return self._read()["device_bytes"]

    def _read(self) -> Any:
        """Return the next line that is JSON; programs print other ones as well."""
        while line := self._stdout.readline():
            with contextlib.suppress(ValueError):
                return json.loads(line)
        raise SideFailed(f"{self.name} ended with {self._process.wait()}: {self._log}")

    def _memory(self, field: str) -> int:
        own = psutil.Process(self._process.pid)
        return sum(_memory_of(process.pid, field) for process in (own, *own.children(recursive=True)))

    def _stop(self) -> None:
        started: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(OSError):
            self._stdin.close()  # it ends by itself at the end of its input
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in started:  # a side that was killed leaves them, with all their memory
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _memory_of(process: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
