"""Log lines: structured, with the ids of their request and trace, and without anybody's text.

Our loggers and those of libraries end in one handler. On the way every line takes the same steps: request context,
trace ids, redaction, rendering. Not configured, our loggers speak through Python's own logging, so that a library user
sees warnings and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from qwire.telemetry.redaction import exception_text, redacted

_FIRST = ("timestamp", "level", "event", "logger", "request_id", "trace_id", "span_id")
_EXPORTER_NOTICE_S = 60.0


def get_logger(name: str = "qwire") -> BoundLogger:
    """Return a logger. Its methods take a constant snake_case event and key-value pairs.

    Args:
        name: The module's `__name__`.
    """
    return BoundLogger(logging.getLogger(name), list(_OWN_CHAIN), {})


def configure_logging(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Write the process's log lines; a second call replaces the first one's settings.

    Args:
        level: The least severe of our own lines to write, such as `INFO`. Those of libraries begin at WARNING.
        log_format: `json` or `console`.
        stream: Where to; None = standard error.
    """
    # Not sys.stderr: Ray Serve replaces it with a logger, and lines would come back to us without end.
    handler = _Handler(stream or sys.__stderr__ or sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[merge_contextvars, _add_trace_ids, _redact],
            processors=[_add_record_fields, _render_exception, ProcessorFormatter.remove_processors_meta]
            + ([_in_order, _render_json] if log_format == "json" else [_console(handler.stream)]),
        )
    )
    handler.addFilter(_ExporterThrottle())
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("qwire").setLevel(number)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that we replace no other."""


class _Event(dict[str, Any]):
    """An event that reads well where some other handler prints it."""

    def __str__(self) -> str:
        pairs = (f"{key}={value!r}" for key, value in self.items() if key not in {"event", "exc_info"})
        return " ".join((str(self.get("event", "")), *pairs))


class _ExporterThrottle(logging.Filter):
    """Lets OpenTelemetry complain once a minute: an absent collector is no reason to flood the log."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = -math.inf
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return True
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._suppressed += 1
            return False
        if self._suppressed:
            record.msg = f"{record.getMessage()} (and {self._suppressed} more such lines before)"
            record.args = ()
        self._next_s, self._suppressed = now_s + _EXPORTER_NOTICE_S, 0
        return True


def _add_trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return redacted(event)


def _to_record(logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    positional, keywords = ProcessorFormatter.wrap_for_formatter(logger, method, _Event(event))
    return positional, {**keywords, "exc_info": event.get("exc_info")}


_OWN_CHAIN: tuple[Processor, ...] = (
    structlog.stdlib.filter_by_level,
    merge_contextvars,
    _add_trace_ids,
    _redact,
    cast("Processor", _to_record),
)


def _add_record_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    return event


def _render_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    info: ExcInfo | BaseException | bool | None = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info is True:
        error = sys.exception()
    if error is not None:
        event["exception"] = exception_text(error, withhold="request_id" in get_contextvars())
    return event


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**{key: event[key] for key in _FIRST if key in event}, **event}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return json.dumps(event, default=repr, allow_nan=False)
    except ValueError:  # NaN and infinity are no JSON
        return json.dumps(_finite(event), default=repr)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[object]", value)]
    return value


def _console(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())
