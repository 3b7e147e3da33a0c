"""Builds the requests of batch jobs: pure functions that both clients share."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any

from qwire.client.batch_job import ITEM_STATES, JOB_STATES, BatchItemState, BatchJobState, RejectedItem, Upload
from qwire.client.batch_request import batch_items
from qwire.client.errors import InvalidRequest
from qwire.client.generation_options import BatchItem, GenerationOptions, Priority
from qwire.client.prompt import Prompt
from qwire.client.request import priority_of
from qwire.client.status import error_from_status
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1 import batch_pb2

CHUNK_ITEMS = 500
"""Items that a chunk has at the most; a server takes 1,000."""
_CHUNK_BYTES = 2 * 1024 * 1024
"""Bytes that it has at the most, but for a single item that is larger; a server takes 4 MiB unless configured."""


def create_request(
    *,
    request_id: str | None,
    labels: Mapping[str, str] | None,
    priority: Priority | None,
    completion_window: timedelta | None,
    retention: timedelta | None,
    max_attempts: int | None,
) -> pb.CreateBatchJobRequest:
    """Build the message of CreateBatchJob.

    Raises:
        InvalidRequest: A value cannot be sent.
    """
    request = pb.CreateBatchJobRequest(priority=priority_of(priority, "priority"))
    values: dict[str, Any] = {
        "request_id": request_id or uuid.uuid4().hex,
        "labels": labels,
        "completion_window": completion_window,
        "retention": retention,
        "max_attempts": max_attempts,
    }
    for field, value in values.items():
        try:
            request.MergeFrom(pb.CreateBatchJobRequest(**{field: value}))
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest.of(field, str(error)) from error
    return request


class Chunks:
    """Cuts items into chunks, the same ones every time, and adds up what becomes of them.

    So an upload that broke is gone on with by repeating it: the server knows the chunks that it has.

    Args:
        job_id: The job.
        items: Prompts or items. An item without an id gets its number among them, from 0.
        options: Hold for items without their own.
    """

    def __init__(self, job_id: str, items: Iterable[Prompt | BatchItem], options: GenerationOptions) -> None:
        self._job_id = job_id
        self._items = items
        self._options = options
        self._accepted = 0
        self._rejected: list[RejectedItem] = []
        self._digest = sha256()
        self._chunks = 0

    def __iter__(self) -> Iterator[pb.AppendBatchItemsRequest]:
        held: list[batch_pb2.BatchItem] = []
        size = 0
        for item in batch_items(self._items, self._options):
            own = item.ByteSize()
            if held and (len(held) == CHUNK_ITEMS or size + own > _CHUNK_BYTES):
                yield self._request(held)
                held, size = [], 0
            held.append(item)
            size += own
        if held:
            yield self._request(held)

    def note(self, response: pb.AppendBatchItemsResponse) -> None:
        """Take the answer to the chunk that was yielded last."""
        self._accepted += response.accepted
        for one in response.rejected:
            self._rejected.append(RejectedItem(one.id, self._chunks, one.index, error_from_status(one.error)))
        self._digest.update(response.digest)
        self._chunks += 1

    def seal(self) -> pb.SealBatchJobRequest:
        """Return the seal of all chunks so far."""
        return pb.SealBatchJobRequest(job_id=self._job_id, chunks=self._chunks, digest=self._digest.digest())

    def upload(self) -> Upload:
        """Return what was appended so far."""
        return Upload(self._accepted, tuple(self._rejected), self._chunks)

    def _request(self, items: list[batch_pb2.BatchItem]) -> pb.AppendBatchItemsRequest:
        return pb.AppendBatchItemsRequest(job_id=self._job_id, chunk_index=self._chunks, items=items)


def job_state(state: BatchJobState | None) -> pb.BatchJobState.ValueType:
    """Return a state as a filter; None = any."""
    return next((number for number, known in JOB_STATES.items() if known is state), pb.BATCH_JOB_STATE_UNSPECIFIED)


def item_state(state: BatchItemState | None) -> pb.BatchItemState.ValueType:
    """Return a state as a filter; None = any."""
    return next((number for number, known in ITEM_STATES.items() if known is state), pb.BATCH_ITEM_STATE_UNSPECIFIED)
