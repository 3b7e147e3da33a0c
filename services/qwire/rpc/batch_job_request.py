"""Reads what a batch job is created from."""

from __future__ import annotations

from hashlib import sha256

from qwire.batch.job import NewJob
from qwire.rpc.batch_job_message import PRIORITIES
from qwire.rpc.config import BatchConfig
from qwire.rpc.fields import FieldChecker
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1 import types_pb2

MAX_REQUEST_ID_CHARACTERS = 64
MAX_LABELS = 32
MAX_LABEL_KEY_CHARACTERS = 63
MAX_LABEL_VALUE_CHARACTERS = 255
_LEAST_S = 60
_LONGEST_WINDOW_S = 30 * 24 * 3600
_MAX_ATTEMPTS = 20
_DEFAULT_ATTEMPTS = 5


def new_job(request: pb.CreateBatchJobRequest, config: BatchConfig) -> NewJob:
    """Return the job that a request asks for.

    Raises:
        InvalidFields: Fields are out of range, missing or unknown; all of them are told.
    """
    checker = FieldChecker()
    checker.only_known(request, "")
    if not 1 <= len(request.request_id) <= MAX_REQUEST_ID_CHARACTERS:
        checker.refuse("request_id", f"must have 1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    if len(request.labels) > MAX_LABELS:
        checker.refuse("labels", f"must have at most {MAX_LABELS} entries")
    for key, value in request.labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY_CHARACTERS or len(value) > MAX_LABEL_VALUE_CHARACTERS:
            checker.refuse(
                "labels",
                f"must have keys of 1 to {MAX_LABEL_KEY_CHARACTERS} characters and values of at most "
                f"{MAX_LABEL_VALUE_CHARACTERS}",
            )
            break
    priority = request.priority or types_pb2.PRIORITY_LOW
    if priority not in PRIORITIES:
        checker.refuse("priority", "must be one of LOW, NORMAL and HIGH")
    longest_s = config.max_retention_s
    window_ns = _duration_ns(checker, request, "completion_window", _LONGEST_WINDOW_S)
    retention_ns = _duration_ns(checker, request, "retention", longest_s)
    attempts = request.max_attempts if request.HasField("max_attempts") else _DEFAULT_ATTEMPTS
    checker.in_range("max_attempts", attempts, 1, _MAX_ATTEMPTS)
    checker.raise_if_any()
    return NewJob(
        request_id=request.request_id,
        request_digest=sha256(request.SerializeToString(deterministic=True)).digest(),
        labels=dict(request.labels),
        priority=PRIORITIES[priority],
        completion_window_ns=window_ns,
        retention_ns=int(config.default_retention_s * 1e9) if retention_ns is None else retention_ns,
        max_attempts=attempts,
    )


def _duration_ns(checker: FieldChecker, request: pb.CreateBatchJobRequest, field: str, longest_s: float) -> int | None:
    if not request.HasField(field):  # pyright: ignore[reportArgumentType] - the caller names one of its durations
        return None
    duration = getattr(request, field)
    seconds = duration.seconds + duration.nanos / 1e9
    checker.in_range(field, seconds, _LEAST_S, longest_s)
    return int(duration.seconds) * 10**9 + int(duration.nanos)
