"""Errors that are answers: a full queue or a passed deadline is no fault of the replica that says so."""

from __future__ import annotations

import logging

from typing_extensions import override

from qwire.engine.errors import EngineError, NumericalError

_SERVE_LOG = "ray.serve"


class NoAnswers(logging.Filter):
    """Drops what Ray Serve writes of each call that raises, traceback and all, where it raised an answer.

    Callers and the gateway's log have the same, with a reason. Under overload it would be most of what replicas do.
    """

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, EngineError) or isinstance(error, NumericalError)


_NO_ANSWERS = NoAnswers()


def keep_answers_out_of_the_log() -> None:
    """Filter Ray Serve's log of this process. Idempotent."""
    logging.getLogger(_SERVE_LOG).addFilter(_NO_ANSWERS)
