"""Breaks of a call: which of them another call may mend, and for how long to try."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import grpc

from qwire.client.errors import DeadlineExceeded
from qwire.client.options import ResumeOptions
from qwire.client.resume_point import ResumePoint
from qwire.client.status import error_from_rpc

_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_LOST = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
)
"""What gRPC says where a peer died or an intermediary cut the stream: a lost connection or GOAWAY is UNAVAILABLE,
RST_STREAM is INTERNAL or CANCELLED, an end without trailers is UNKNOWN."""


def may_be_mended(error: grpc.RpcError) -> bool:
    """Whether another call may go on with a stream that failed like this.

    A qwire server always says why it ends a call. Where nobody says it, the server or the way to it was lost.
    """
    code = error.code()
    told = error_from_rpc(error)
    if (pushback := _pushback_ms(error)) is not None and pushback < 0:
        return False
    if not told.reason:
        return code in _LOST
    return code is grpc.StatusCode.UNAVAILABLE or (
        code is grpc.StatusCode.RESOURCE_EXHAUSTED and told.retry_after_s is not None
    )


def is_loss(error: grpc.RpcError) -> bool:
    """Whether the server, or the way to it, was lost: nobody says why the call ended."""
    return not error_from_rpc(error).reason and may_be_mended(error)


class Progress(Protocol):
    """How far a call is."""

    @property
    def can_go_on(self) -> bool:
        """Whether another attempt makes sense at all."""
        ...

    @property
    def output_tokens(self) -> int:
        """Output tokens so far."""
        ...

    @property
    def generation_id(self) -> str:
        """The id of the generation; empty = unknown."""
        ...

    @property
    def resume_point(self) -> ResumePoint | None:
        """Where it stands; None = nothing came."""
        ...


@dataclass(frozen=True, slots=True)
class NoProgress:
    """A call with one answer is as far as nothing until it has come. See `Progress`."""

    can_go_on: bool
    output_tokens: int = 0
    generation_id: str = ""
    resume_point: ResumePoint | None = None


class Persistence:
    """Decides whether a call that broke is to be gone on with, how long to wait before, and when to give up.

    Args:
        reader: Reads the answer; its tokens are the progress.
        options: The bounds; None = a break is the end.
        deadline: When the time allowed for all of it runs out, by `time.monotonic`; `math.inf` = never.
    """

    def __init__(self, reader: Progress, options: ResumeOptions | None, deadline: float) -> None:
        self._reader = reader
        self._options = options
        self._deadline = deadline
        self._output_tokens = reader.output_tokens
        self._attempts = 0
        self._lost_at = math.inf

    def wait_s(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next attempt, seconds.

        Raises:
            grpc.RpcError: The error that is given: it is not worth another attempt.
            DeadlineExceeded: The time allowed for the call would run out meanwhile.
        """
        options, now = self._options, time.monotonic()
        if options is None or not self._reader.can_go_on or not may_be_mended(error):
            raise error
        if self._reader.output_tokens > self._output_tokens:
            self._output_tokens = self._reader.output_tokens
            self._attempts, self._lost_at = 0, math.inf
        self._lost_at = min(self._lost_at, now)
        doublings = min(self._attempts, 64)  # far beyond any bound, and far from an overflow
        backoff_s = min(options.initial_backoff_s * 2.0**doublings, options.max_backoff_s)
        self._attempts += 1
        # The clients of a server that died must not come back all at once.
        wait_s = max(backoff_s * random.uniform(0.8, 1.2), _hint_s(error) * random.uniform(1.0, 1.2))  # noqa: S311 - no secret
        if self._attempts > options.max_attempts or now + wait_s > self._lost_at + options.timeout_s:
            raise error
        if now + wait_s >= self._deadline:
            overdue = DeadlineExceeded(
                "the time allowed for the call ran out",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                generation_id=self._reader.generation_id,
            )
            overdue.resume_point = self._reader.resume_point
            raise overdue from error
        return wait_s


def left_s(deadline: float) -> float | None:
    """Return the timeout of a call as gRPC takes it: seconds until the deadline, None = none."""
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


def deadline_in(timeout_s: float | None) -> float:
    """Return when a timeout runs out, by `time.monotonic`; `math.inf` = never."""
    return math.inf if timeout_s is None else time.monotonic() + timeout_s


def _hint_s(error: grpc.RpcError) -> float:
    hints = (error_from_rpc(error).retry_after_s, (_pushback_ms(error) or 0) / 1000)
    return max(hint or 0.0 for hint in hints)


def _pushback_ms(error: grpc.RpcError) -> int | None:
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in trailers:
        if key == _PUSHBACK_KEY:
            try:
                return int(value)
            except ValueError:
                return -1  # as gRPC takes it: no retry
    return None
