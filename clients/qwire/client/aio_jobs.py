"""Batch jobs of the asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Unpack

import grpc
import grpc.aio

from qwire.client.aio_call import ask, task_is_cancelled
from qwire.client.batch_job import BatchItemState, BatchJob, BatchJobItem, BatchJobState, Upload
from qwire.client.batch_job_request import Chunks, create_request, item_state, job_state
from qwire.client.generation_options import BatchItem, GenerationOptions, Priority
from qwire.client.prompt import Prompt
from qwire.client.repetition import closed
from qwire.client.watch import Watch
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1.batch_job_pb2_grpc import BatchJobServiceStub


class AsyncBatchJobs:
    """Durable batch jobs: `AsyncClient.jobs`. Every call may be repeated after a failure; `BatchJobs` blocks instead.

    Example:
        job = await client.jobs.create()
        await client.jobs.upload(job.id, prompts, max_output_tokens=64)
        async for item in client.jobs.results(job.id):
            print(item.id, item.unwrap().text)

    Args:
        channel: The client's.
        timeout_s: Returns how long a call may take, or raises where the client is closed.
        model: The model of items that name none.
        watch: Makes what decides how long a broken watch is gone on with.
        pause: Waits before another attempt after an error, or raises Cancelled where the client is closed meanwhile.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        timeout_s: Callable[[], float | None],
        model: str,
        watch: Callable[[], Watch],
        pause: Callable[[float, grpc.RpcError], Awaitable[None]],
    ) -> None:
        self._stub = BatchJobServiceStub(channel)
        self._timeout_s = timeout_s
        self._model = model
        self._watch = watch
        self._pause = pause

    async def create(
        self,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        completion_window: timedelta | None = None,
        retention: timedelta | None = None,
        max_attempts: int | None = None,
    ) -> BatchJob:
        """Make an empty job.

        Args:
            request_id: Names the request: the same one returns the same job, so that a program that was interrupted
                finds its own again. None = a new one.
            labels: What to find it by.
            priority: None = low.
            completion_window: What has no outcome then expires. None = no limit.
            retention: How long it is kept after its end. None = the server's default.
            max_attempts: Attempts of an item. None = the server's default.
        """
        request = create_request(
            request_id=request_id,
            labels=labels,
            priority=priority,
            completion_window=completion_window,
            retention=retention,
            max_attempts=max_attempts,
        )
        return BatchJob.from_proto((await self._ask(self._stub.CreateBatchJob, request)).job)

    async def upload(
        self,
        job_id: str,
        items: Iterable[Prompt | BatchItem],
        *,
        seal: bool = True,
        progress: Callable[[Upload], None] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Upload:
        """Append items in chunks. An upload that broke is gone on with by repeating it with the same items.

        Args:
            job_id: The job.
            items: As many as one likes; they are read as they are sent.
            seal: Say that these are all.
            progress: Is told what was appended, after every chunk.
            options: Hold for items without their own.
        """
        chunks = Chunks(job_id, items, {"model": self._model, **options})
        for request in chunks:
            chunks.note(await self._ask(self._stub.AppendBatchItems, request))
            if progress is not None:
                progress(chunks.upload())
        if seal:
            await self._ask(self._stub.SealBatchJob, chunks.seal())
        return chunks.upload()

    async def get(self, job_id: str) -> BatchJob:
        """Return a job as it is now."""
        return BatchJob.from_proto((await self._ask(self._stub.GetBatchJob, pb.GetBatchJobRequest(job_id=job_id))).job)

    async def list(
        self, *, state: BatchJobState | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncGenerator[BatchJob]:
        """Yield the caller's jobs, newest first; only those in a state, or with labels, if these are given."""
        request = pb.ListBatchJobsRequest(state=job_state(state), labels=labels)
        while True:
            page = await self._ask(self._stub.ListBatchJobs, request)
            for job in page.jobs:
                yield BatchJob.from_proto(job)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(self, job_id: str) -> BatchJob:
        """End a job, and everything in it that has no outcome."""
        request = pb.CancelBatchJobRequest(job_id=job_id)
        return BatchJob.from_proto((await self._ask(self._stub.CancelBatchJob, request)).job)

    async def cancel_items(self, job_id: str, item_ids: Sequence[str]) -> int:
        """End items that have no outcome; return how many."""
        request = pb.CancelBatchItemsRequest(job_id=job_id, item_ids=item_ids)
        return (await self._ask(self._stub.CancelBatchItems, request)).cancelled

    async def retry(self, job_id: str, item_ids: Sequence[str] = ()) -> int:
        """Let items that failed run again, all of them or these; return how many."""
        request = pb.RetryBatchItemsRequest(job_id=job_id, item_ids=item_ids)
        return (await self._ask(self._stub.RetryBatchItems, request)).retried

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with everything in it."""
        await self._ask(self._stub.DeleteBatchJob, pb.DeleteBatchJobRequest(job_id=job_id))

    async def items(self, job_id: str, *, state: BatchItemState | None = None) -> AsyncGenerator[BatchJobItem]:
        """Yield a job's items as they are now, in the order in which they were appended."""
        request = pb.ListBatchResultsRequest(job_id=job_id, state=item_state(state))
        while True:
            page = await self._ask(self._stub.ListBatchResults, request)
            for item in page.items:
                yield BatchJobItem.from_proto(item)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def results(self, job_id: str, *, cursor: int = 0) -> AsyncGenerator[BatchJobItem]:
        """Yield outcomes as they land, until the job has ended; see `watch`."""
        async with aclosing(self.watch(job_id, cursor=cursor)) as events:
            async for event in events:
                if isinstance(event, BatchJobItem):
                    yield event

    async def watch(
        self, job_id: str, *, cursor: int = 0, omit_generations: bool = False
    ) -> AsyncGenerator[BatchJob | BatchJobItem]:
        """Yield outcomes as they land, and the job as it changes, until it has ended.

        Where the connection or the server is lost, it goes on where it was, as `ClientOptions.resume` says: nothing is
        lost and nothing comes twice.

        Args:
            job_id: The job.
            cursor: `BatchJobItem.cursor` of the last outcome that is known. 0 = from the first one on.
            omit_generations: Leave out what was generated.
        """
        watch = self._watch()
        while True:
            request = pb.WatchBatchJobRequest(job_id=job_id, cursor=cursor, omit_generations=omit_generations)
            self._timeout_s()  # raises where the client is closed
            call = self._stub.WatchBatchJob(request)
            try:
                async for response in call:
                    cursor = response.cursor
                    watch.progress()
                    if response.HasField("item"):
                        yield BatchJobItem.from_proto(response.item, cursor)
                    else:
                        job = BatchJob.from_proto(response.job)
                        yield job
                        watch.seen(job)
            except grpc.RpcError as error:
                await self._pause(watch.wait_s(error), error)
            except asyncio.CancelledError:
                if task_is_cancelled():
                    raise
                raise closed() from None
            else:
                watch.end()
                return
            finally:
                call.cancel()

    async def _ask(self, method: Any, request: Any) -> Any:
        return await ask(method, request, self._timeout_s())
