"""Collects the process's log lines as the JSON that operators see."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from qwire.telemetry.logging import configure_logging


class LogLines:
    """The lines written so far."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def attach(self, level: str = "INFO", log_format: str = "json") -> None:
        """Collect the lines from now on, also where something else has set up logging since."""
        configure_logging(level, log_format, self.stream)

    def all(self) -> list[dict[str, Any]]:
        """Every line; one that is not a JSON object fails the test."""
        lines = [json.loads(line, parse_constant=_refuse) for line in self.stream.getvalue().splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        return lines

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.all() if line["event"] == event]


@contextmanager
def collected_log_lines(level: str = "INFO", log_format: str = "json") -> Generator[LogLines]:
    """Send the process's log lines here, and put logging back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("qwire")
    before = (list(root.handlers), root.level, ours.level)
    lines = LogLines()
    lines.attach(level, log_format)
    try:
        yield lines
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
