"""How long a watch that broke is gone on with."""

from __future__ import annotations

import random
import time

from qwire.client.batch_job import BatchJob
from qwire.client.errors import QwireError, StreamTruncated, Unavailable
from qwire.client.options import ResumeOptions


class Watch:
    """The breaks of one watch.

    Args:
        options: How long to go on. None = a break ends the watch.
    """

    def __init__(self, options: ResumeOptions | None) -> None:
        self._options = options
        self._attempts = 0
        self._since = time.monotonic()
        self._ended = False

    def progress(self) -> None:
        """Take note of an event."""
        self._attempts = 0
        self._since = time.monotonic()

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

    def wait_s(self, error: QwireError) -> float:
        """Return how long to wait before the next attempt, seconds.

        Raises:
            QwireError: The error, where another attempt is not worth it.
        """
        options = self._options
        if options is None or not isinstance(error, Unavailable):
            raise error
        if self._attempts == options.max_attempts or time.monotonic() - self._since > options.timeout_s:
            raise error
        wait_s = min(options.initial_backoff_s * 2**self._attempts, options.max_backoff_s)
        self._attempts += 1
        return max(wait_s * random.uniform(0.8, 1.2), error.retry_after_s or 0.0)  # noqa: S311 - not a secret
