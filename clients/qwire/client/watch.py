"""How long a watch that broke is gone on with."""

from __future__ import annotations

import math
from collections.abc import Callable

import grpc

from qwire.client.batch_job import BatchJob
from qwire.client.errors import StreamTruncated
from qwire.client.interruption import Persistence
from qwire.client.options import ResumeOptions
from qwire.client.resume_point import ResumePoint
from qwire.client.status import error_from_rpc


class Watch:
    """The breaks of one watch. Its events are its progress.

    Args:
        options: How long to go on. None = a break ends the watch.
        is_closed: Whether the client is closed, so that a call that ends is not lost.
    """

    def __init__(self, options: ResumeOptions | None, is_closed: Callable[[], bool]) -> None:
        self._is_closed = is_closed
        self._events = 0
        self._ended = False
        self._persistence = Persistence(self, options, math.inf)

    @property
    def can_go_on(self) -> bool:
        """Whether another attempt makes sense at all."""
        return not self._is_closed()

    @property
    def output_tokens(self) -> int:
        """Events so far: see `Progress`."""
        return self._events

    @property
    def generation_id(self) -> str:
        """A watch has none."""
        return ""

    @property
    def resume_point(self) -> ResumePoint | None:
        """A watch has none."""
        return None

    def progress(self) -> None:
        """Take note of an event."""
        self._events += 1

    def seen(self, job: BatchJob) -> None:
        """Take note of the job."""
        self._ended = job.state.ended

    def end(self) -> None:
        """Take the end of the stream with status OK.

        Raises:
            StreamTruncated: The job has not ended.
        """
        if not self._ended:
            raise StreamTruncated("the watch ended before its job")

    def wait_s(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next attempt, seconds.

        Raises:
            QwireError: What the error means, where another attempt is not worth it.
        """
        try:
            return self._persistence.wait_s(error)
        except grpc.RpcError:
            raise error_from_rpc(error) from error
