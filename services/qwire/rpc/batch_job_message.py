"""Jobs and items between the store and the wire."""

from __future__ import annotations

from hashlib import sha256

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from qwire.batch.item import Chunk, Item, Rejection
from qwire.batch.job import ItemState, Job
from qwire.engine.errors import GenerationCancelled
from qwire.rpc.errors import ItemIdTaken
from qwire.rpc.status import status_of
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1 import batch_pb2, types_pb2

PRIORITIES = {types_pb2.PRIORITY_LOW: -1, types_pb2.PRIORITY_NORMAL: 0, types_pb2.PRIORITY_HIGH: 1}
PRIORITY_MESSAGES = {number: priority for priority, number in PRIORITIES.items()}


def job_message(job: Job) -> pb.BatchJob:
    """Return a job as the contract tells it."""
    counts = {state.name.lower(): count for state, count in job.counts.items()}
    return pb.BatchJob(
        id=job.id,
        request_id=job.request_id,
        labels=job.labels,
        priority=PRIORITY_MESSAGES[job.priority],
        state=job.state.value,  # pyright: ignore[reportArgumentType] - the numbers are the same
        counts=pb.BatchItemCounts(total=job.items, **counts),
        chunks=job.chunks,
        usage=pb.BatchJobUsage(
            prompt_tokens=job.tokens.prompt,
            output_tokens=job.tokens.output,
            cached_prompt_tokens=job.tokens.cached_prompt,
            reasoning_tokens=job.tokens.reasoning,
        ),
        create_time=_timestamp(job.created_ns),
        seal_time=_timestamp(job.sealed_ns),
        end_time=_timestamp(job.ended_ns),
        expire_time=_timestamp(job.expires_ns),
        delete_time=_timestamp(job.delete_ns),
    )


def item_message(item: Item, *, with_generation: bool = True) -> pb.BatchJobItem:
    """Return an item as the contract tells it."""
    message = pb.BatchJobItem(
        id=item.id,
        number=item.number,
        state=item.state.value,  # pyright: ignore[reportArgumentType] - the numbers are the same
        attempts=item.attempts,
        end_time=_timestamp(item.ended_ns),
    )
    match item.state:
        case ItemState.SUCCEEDED:
            if with_generation:
                message.generation.ParseFromString(item.content)
        case ItemState.FAILED:
            message.error.ParseFromString(item.content)
        case ItemState.CANCELLED:
            message.error.CopyFrom(status_of(GenerationCancelled()))
        case ItemState.EXPIRED:
            message.error.CopyFrom(status_of(TimeoutError()))
        case _:
            pass
    return message


def append_response(chunk: Chunk) -> pb.AppendBatchItemsResponse:
    """Return what became of a chunk."""
    return pb.AppendBatchItemsResponse(
        accepted=chunk.accepted,
        rejected=[
            pb.RejectedBatchItem(id=one.id, index=one.index, error=_rejection_status(one)) for one in chunk.rejections
        ],
        digest=chunk.digest,
    )


def digest_of(items: list[batch_pb2.BatchItem]) -> bytes:
    """Return the digest of a chunk, as AppendBatchItemsResponse.digest defines it."""
    digest = sha256()
    for item in items:
        encoded = item.SerializeToString(deterministic=True)
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def _rejection_status(rejection: Rejection) -> Status:
    return Status.FromString(rejection.error) if rejection.error else status_of(ItemIdTaken())


def _timestamp(unix_ns: int | None) -> Timestamp | None:
    if unix_ns is None:
        return None
    seconds, nanos = divmod(unix_ns, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)
