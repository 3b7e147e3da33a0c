"""Batch jobs of a fake server: kept in memory, their items answered when they are appended."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NoReturn

import grpc

from qwire.client.testing.generation import ScriptedFailure, gather, play
from qwire.client.testing.script import Failure
from qwire.client.testing.state import ServerState
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1 import batch_pb2
from qwire.v1.batch_job_pb2_grpc import BatchJobServiceServicer

_ENDED = (pb.BATCH_JOB_STATE_COMPLETED, pb.BATCH_JOB_STATE_CANCELLED)


@dataclass(slots=True)
class FakeJob:
    """A job, its items with their outcomes in order, and the answers to its chunks."""

    message: pb.BatchJob
    items: list[pb.BatchJobItem] = field(default_factory=list[pb.BatchJobItem])
    chunks: dict[int, pb.AppendBatchItemsResponse] = field(default_factory=dict[int, pb.AppendBatchItemsResponse])


class FakeJobs(BatchJobServiceServicer):
    """Answers each item with the next answer of the script. Nothing expires, and every page is the last one."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._jobs: dict[str, FakeJob] = {}

    def CreateBatchJob(  # noqa: N802 - the RPC's name
        self, request: pb.CreateBatchJobRequest, context: grpc.ServicerContext
    ) -> pb.CreateBatchJobResponse:
        """Make an empty job, or find the one of the same request."""
        self._state.enter("CreateBatchJob", request, context)
        with self._lock:
            for job in self._jobs.values():
                if job.message.request_id == request.request_id:
                    return pb.CreateBatchJobResponse(job=job.message)
            message = pb.BatchJob(
                id=f"job-{next(self._numbers)}",
                request_id=request.request_id,
                labels=request.labels,
                priority=request.priority,
                state=pb.BATCH_JOB_STATE_OPEN,
            )
            message.create_time.GetCurrentTime()
            self._jobs[message.id] = FakeJob(message)
        return pb.CreateBatchJobResponse(job=message)

    def AppendBatchItems(  # noqa: N802 - the RPC's name
        self, request: pb.AppendBatchItemsRequest, context: grpc.ServicerContext
    ) -> pb.AppendBatchItemsResponse:
        """Answer the items of a new chunk."""
        self._state.enter("AppendBatchItems", request, context)
        job = self._job(request.job_id, context)
        with self._lock:
            known = job.chunks.get(request.chunk_index)
            if known is not None:
                return known
            response = pb.AppendBatchItemsResponse(accepted=len(request.items), digest=_digest(request))
            job.chunks[request.chunk_index] = response
            job.message.chunks += 1
            for item in request.items:
                self._answer(job, item, context)
        return response

    def SealBatchJob(  # noqa: N802 - the RPC's name
        self, request: pb.SealBatchJobRequest, context: grpc.ServicerContext
    ) -> pb.SealBatchJobResponse:
        """End the job: all its items have their outcomes."""
        self._state.enter("SealBatchJob", request, context)
        job = self._job(request.job_id, context)
        with self._lock:
            job.message.state = pb.BATCH_JOB_STATE_COMPLETED
            job.message.seal_time.GetCurrentTime()
            job.message.end_time.GetCurrentTime()
        return pb.SealBatchJobResponse(job=job.message)

    def GetBatchJob(  # noqa: N802 - the RPC's name
        self, request: pb.GetBatchJobRequest, context: grpc.ServicerContext
    ) -> pb.GetBatchJobResponse:
        """Tell of a job."""
        self._state.enter("GetBatchJob", request, context)
        return pb.GetBatchJobResponse(job=self._job(request.job_id, context).message)

    def ListBatchJobs(  # noqa: N802 - the RPC's name
        self, request: pb.ListBatchJobsRequest, context: grpc.ServicerContext
    ) -> pb.ListBatchJobsResponse:
        """Tell of all jobs that match, newest first."""
        self._state.enter("ListBatchJobs", request, context)
        found = [
            job.message
            for job in reversed(self._jobs.values())
            if request.state in (pb.BATCH_JOB_STATE_UNSPECIFIED, job.message.state)
            and all(job.message.labels.get(key) == value for key, value in request.labels.items())
        ]
        return pb.ListBatchJobsResponse(jobs=found)

    def CancelBatchJob(  # noqa: N802 - the RPC's name
        self, request: pb.CancelBatchJobRequest, context: grpc.ServicerContext
    ) -> pb.CancelBatchJobResponse:
        """End an open job."""
        self._state.enter("CancelBatchJob", request, context)
        job = self._job(request.job_id, context)
        if job.message.state not in _ENDED:
            job.message.state = pb.BATCH_JOB_STATE_CANCELLED
            job.message.end_time.GetCurrentTime()
        return pb.CancelBatchJobResponse(job=job.message)

    def DeleteBatchJob(  # noqa: N802 - the RPC's name
        self, request: pb.DeleteBatchJobRequest, context: grpc.ServicerContext
    ) -> pb.DeleteBatchJobResponse:
        """Forget a job."""
        self._state.enter("DeleteBatchJob", request, context)
        with self._lock:
            self._jobs.pop(request.job_id, None)
        return pb.DeleteBatchJobResponse()

    def CancelBatchItems(  # noqa: N802 - the RPC's name
        self, request: pb.CancelBatchItemsRequest, context: grpc.ServicerContext
    ) -> pb.CancelBatchItemsResponse:
        """End nothing: every item has its outcome."""
        self._state.enter("CancelBatchItems", request, context)
        self._job(request.job_id, context)
        return pb.CancelBatchItemsResponse(cancelled=0)

    def RetryBatchItems(  # noqa: N802 - the RPC's name
        self, request: pb.RetryBatchItemsRequest, context: grpc.ServicerContext
    ) -> pb.RetryBatchItemsResponse:
        """Run nothing again: what failed did so by the script."""
        self._state.enter("RetryBatchItems", request, context)
        self._job(request.job_id, context)
        return pb.RetryBatchItemsResponse(retried=0)

    def ListBatchResults(  # noqa: N802 - the RPC's name
        self, request: pb.ListBatchResultsRequest, context: grpc.ServicerContext
    ) -> pb.ListBatchResultsResponse:
        """Tell of all items that match."""
        self._state.enter("ListBatchResults", request, context)
        items = self._job(request.job_id, context).items
        wanted = [item for item in items if request.state in (pb.BATCH_ITEM_STATE_UNSPECIFIED, item.state)]
        return pb.ListBatchResultsResponse(items=wanted)

    def WatchBatchJob(  # noqa: N802 - the RPC's name
        self, request: pb.WatchBatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchBatchJobResponse]:
        """Tell of the items after the cursor, and of the job once it has ended."""
        self._state.enter("WatchBatchJob", request, context)
        job, cursor = self._job(request.job_id, context), request.cursor
        yield pb.WatchBatchJobResponse(cursor=cursor, job=job.message)
        while context.is_active():
            ended = job.message.state in _ENDED
            for item in job.items[cursor:]:
                cursor += 1
                yield pb.WatchBatchJobResponse(cursor=cursor, item=item)
            if ended:
                yield pb.WatchBatchJobResponse(cursor=cursor, job=job.message)
                return
            with self._state.changed:
                self._state.changed.wait(timeout=0.05)

    def _job(self, job_id: str, context: grpc.ServicerContext) -> FakeJob:
        job = self._jobs.get(job_id)
        return job or _not_found(context)

    def _answer(self, job: FakeJob, item: batch_pb2.BatchItem, context: grpc.ServicerContext) -> None:
        outcome = pb.BatchJobItem(id=item.id, number=len(job.items) + 1, attempts=1)
        outcome.end_time.GetCurrentTime()
        counts, usage = job.message.counts, job.message.usage
        counts.total += 1
        try:
            outcome.generation.CopyFrom(gather(play(self._state, item.spec, context)))
            outcome.state = pb.BATCH_ITEM_STATE_SUCCEEDED
            counts.succeeded += 1
            usage.prompt_tokens += outcome.generation.finished.usage.prompt_tokens
            usage.output_tokens += outcome.generation.finished.usage.output_tokens
        except ScriptedFailure as scripted:
            outcome.error.CopyFrom(scripted.failure.status())
            outcome.state = pb.BATCH_ITEM_STATE_FAILED
            counts.failed += 1
        job.items.append(outcome)


def _not_found(context: grpc.ServicerContext) -> NoReturn:
    Failure(code=grpc.StatusCode.NOT_FOUND, reason="JOB_NOT_FOUND", message="no such batch job").abort(context)


def _digest(request: pb.AppendBatchItemsRequest) -> bytes:
    encoded = [item.SerializeToString(deterministic=True) for item in request.items]
    return sha256(b"".join(len(one).to_bytes(4, "big") + one for one in encoded)).digest()
