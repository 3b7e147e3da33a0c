"""BatchJobService: jobs that outlive the call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from typing_extensions import override

from qwire.batch.item import Rejection
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState, Job, JobState
from qwire.batch.store import JobPage, JobStore
from qwire.engine.errors import InvalidRequest
from qwire.rpc.batch_intake import BatchIntake
from qwire.rpc.batch_job_message import append_response, digest_of, item_message, job_message
from qwire.rpc.batch_job_request import new_job
from qwire.rpc.batch_page import number_in, page_place, page_size, page_token
from qwire.rpc.call import CURRENT_CALL
from qwire.rpc.config import BatchConfig
from qwire.rpc.errors import Draining
from qwire.rpc.fields import FieldChecker, require_known
from qwire.rpc.registry import ModelRegistry
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1.batch_job_pb2_grpc import BatchJobServiceServicer

MAX_CHUNK_ITEMS = 1000
_DIGEST_BYTES = 32
_MAX_INDEX = 2**31
_PAGE_BYTES = 3 * 1024 * 1024
"""Results of one page: gRPC's clients take messages of 4 MiB unless they are told otherwise."""
_WATCHED_AT_ONCE = 64
_POLL_S = 0.25
_JOB_EVENT_S = 1.0

_Context = grpc.aio.ServicerContext[Any, Any]


class BatchJobService(BatchJobServiceServicer):
    """Answers from the job store; what runs the items is the batch runner's business.

    Args:
        registry: The models, which items are checked against.
        jobs: The jobs.
        items: Their items.
        config: Limits.
    """

    def __init__(self, registry: ModelRegistry, jobs: JobStore, items: ItemStore, config: BatchConfig) -> None:
        self._intake = BatchIntake(registry)
        self._jobs = jobs
        self._items = items
        self._config = config
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """End the watches; their callers go on elsewhere, from their cursors."""
        self._draining.set()

    @override
    async def CreateBatchJob(self, request: pb.CreateBatchJobRequest, context: _Context) -> pb.CreateBatchJobResponse:
        """Make an empty job."""
        job = await self._jobs.create(_tenant(), new_job(request, self._config))
        return pb.CreateBatchJobResponse(job=job_message(job))

    @override
    async def AppendBatchItems(
        self, request: pb.AppendBatchItemsRequest, context: _Context
    ) -> pb.AppendBatchItemsResponse:
        """Add a chunk of items."""
        checker = FieldChecker()
        checker.only_known(request, "")
        if not 1 <= len(request.items) <= MAX_CHUNK_ITEMS:
            checker.refuse("items", f"must have 1 to {MAX_CHUNK_ITEMS} items")
        if request.chunk_index >= _MAX_INDEX:
            checker.refuse("chunk_index", f"must be below {_MAX_INDEX}")
        checker.raise_if_any()
        job_id, digest = _job_id(request.job_id), digest_of(list(request.items))
        known = await self._items.chunk(_tenant(), job_id, request.chunk_index, digest)
        if known is not None:
            return append_response(known)
        accepted, rejected = self._intake.sort(request.items)
        chunk = await self._items.append(
            _tenant(),
            job_id,
            request.chunk_index,
            digest=digest,
            accepted=accepted,
            refused=[Rejection(one.index, one.id, one.error.SerializeToString()) for one in rejected],
        )
        return append_response(chunk)

    @override
    async def SealBatchJob(self, request: pb.SealBatchJobRequest, context: _Context) -> pb.SealBatchJobResponse:
        """Take no more items."""
        checker = FieldChecker()
        checker.only_known(request, "")
        if not 1 <= request.chunks <= _MAX_INDEX:
            checker.refuse("chunks", f"must be in [1, {_MAX_INDEX}]")
        digest = request.digest if request.HasField("digest") else None
        if digest is not None and len(digest) != _DIGEST_BYTES:
            checker.refuse("digest", f"must have {_DIGEST_BYTES} bytes")
        checker.raise_if_any()
        job = await self._jobs.seal(_tenant(), _job_id(request.job_id), request.chunks, digest)
        return pb.SealBatchJobResponse(job=job_message(job))

    @override
    async def GetBatchJob(self, request: pb.GetBatchJobRequest, context: _Context) -> pb.GetBatchJobResponse:
        """Return a job as it is now."""
        require_known(request)
        return pb.GetBatchJobResponse(job=job_message(await self._jobs.get(_tenant(), _job_id(request.job_id))))

    @override
    async def ListBatchJobs(self, request: pb.ListBatchJobsRequest, context: _Context) -> pb.ListBatchJobsResponse:
        """Return a page of the caller's jobs."""
        require_known(request)
        limit, place = page_size(request.page_size), page_place(request, request.page_token)
        created, _, job_id = place.partition(" ")
        found = await self._jobs.jobs(
            _tenant(),
            state=_job_state(request.state),
            wanted=request.labels,
            limit=limit + 1,
            after=JobPage(number_in("page_token", created), job_id) if place else None,
        )
        page = found[:limit]
        more = page_token(request, f"{page[-1].created_ns} {page[-1].id}") if len(found) > limit else ""
        return pb.ListBatchJobsResponse(jobs=map(job_message, page), next_page_token=more)

    @override
    async def CancelBatchJob(self, request: pb.CancelBatchJobRequest, context: _Context) -> pb.CancelBatchJobResponse:
        """End a job."""
        require_known(request)
        job = await self._jobs.cancel(_tenant(), _job_id(request.job_id))
        return pb.CancelBatchJobResponse(job=job_message(job))

    @override
    async def DeleteBatchJob(self, request: pb.DeleteBatchJobRequest, context: _Context) -> pb.DeleteBatchJobResponse:
        """Remove a job with everything in it."""
        require_known(request)
        await self._jobs.delete(_tenant(), _job_id(request.job_id))
        return pb.DeleteBatchJobResponse()

    @override
    async def CancelBatchItems(
        self, request: pb.CancelBatchItemsRequest, context: _Context
    ) -> pb.CancelBatchItemsResponse:
        """End single items."""
        require_known(request)
        if not 1 <= len(request.item_ids) <= MAX_CHUNK_ITEMS:
            raise InvalidRequest("item_ids", f"must have 1 to {MAX_CHUNK_ITEMS} ids")
        cancelled = await self._items.cancel_items(_tenant(), _job_id(request.job_id), list(request.item_ids))
        return pb.CancelBatchItemsResponse(cancelled=cancelled)

    @override
    async def RetryBatchItems(
        self, request: pb.RetryBatchItemsRequest, context: _Context
    ) -> pb.RetryBatchItemsResponse:
        """Let items that failed run again."""
        require_known(request)
        if len(request.item_ids) > MAX_CHUNK_ITEMS:
            raise InvalidRequest("item_ids", f"must have at most {MAX_CHUNK_ITEMS} ids")
        retried = await self._items.retry_items(_tenant(), _job_id(request.job_id), list(request.item_ids))
        return pb.RetryBatchItemsResponse(retried=retried)

    @override
    async def ListBatchResults(
        self, request: pb.ListBatchResultsRequest, context: _Context
    ) -> pb.ListBatchResultsResponse:
        """Return a page of a job's items."""
        require_known(request)
        limit, place = page_size(request.page_size), page_place(request, request.page_token)
        found = await self._items.items(
            _tenant(),
            _job_id(request.job_id),
            state=_item_state(request.state),
            after=number_in("page_token", place or 0),
            limit=limit + 1,
        )
        response, size = pb.ListBatchResultsResponse(), 0
        for item in found[:limit]:
            size += len(item.content)
            if response.items and size > _PAGE_BYTES:
                break
            response.items.append(item_message(item))
        if len(response.items) < len(found):
            response.next_page_token = page_token(request, str(response.items[-1].number))
        return response

    @override
    async def WatchBatchJob(
        self, request: pb.WatchBatchJobRequest, context: _Context
    ) -> AsyncIterator[pb.WatchBatchJobResponse]:
        """Yield outcomes as they land, and the job as it changes."""
        require_known(request)
        tenant, job_id, cursor = _tenant(), _job_id(request.job_id), number_in("cursor", request.cursor)
        told: Job | None = None
        told_at = 0.0
        while not self._draining.is_set():
            job, landed = await self._items.landed(tenant, job_id, after=cursor, limit=_WATCHED_AT_ONCE)
            if told is None or (job != told and time.monotonic() - told_at > _JOB_EVENT_S and not job.state.ended):
                yield pb.WatchBatchJobResponse(cursor=cursor, job=job_message(job))
                told, told_at = job, time.monotonic()
            for item in landed:
                cursor = item.landed
                message = item_message(item, with_generation=not request.omit_generations)
                yield pb.WatchBatchJobResponse(cursor=cursor, item=message)
            if landed:
                continue
            if job.state.ended:
                yield pb.WatchBatchJobResponse(cursor=cursor, job=job_message(job))
                return
            await _wait(self._draining, _POLL_S)
        raise Draining


def _tenant() -> str:
    return CURRENT_CALL.get().tenant


def _job_id(job_id: str) -> str:
    if not job_id:
        raise InvalidRequest("job_id", "is required")
    return job_id


def _job_state(state: int) -> JobState | None:
    if state not in (0, *JobState):
        raise InvalidRequest("state", "must be a state of the contract, or unset")
    return JobState(state) if state else None


def _item_state(state: int) -> ItemState | None:
    if state not in (0, *ItemState):
        raise InvalidRequest("state", "must be a state of the contract, or unset")
    return ItemState(state) if state else None


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
