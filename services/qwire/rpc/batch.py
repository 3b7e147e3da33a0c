"""BatchService: many generations in one call, each with its own fate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc.aio
from typing_extensions import override

from qwire.engine.errors import InvalidRequest
from qwire.rpc.call import CURRENT_CALL, Call, new_generation_id
from qwire.rpc.errors import ResponseTooLarge
from qwire.rpc.fields import FieldChecker
from qwire.rpc.generation import GenerationRun
from qwire.rpc.guard import log_defect
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.status import is_mapped, status_of
from qwire.text.read_ahead import BufferBudget
from qwire.v1 import batch_pb2 as pb
from qwire.v1 import types_pb2
from qwire.v1.batch_pb2_grpc import BatchServiceServicer

MAX_ITEMS = 256
MAX_ID_CHARACTERS = 64

_OWN_BYTES = 1024
"""Enough for an error."""

_Context = grpc.aio.ServicerContext[Any, Any]


class BatchService(BatchServiceServicer):
    """Runs the items of a call side by side.

    Args:
        registry: The models.
        monitor: Is told of every token, as a sign of life.
        budget: How far engines may be ahead of what is made of their tokens.
        concurrency: Items of one call that run at once.
        max_response_bytes: The largest response message.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        monitor: HealthMonitor,
        budget: BufferBudget,
        *,
        concurrency: int,
        max_response_bytes: int,
    ) -> None:
        self._registry = registry
        self._monitor = monitor
        self._budget = budget
        self._concurrency = concurrency
        self._max_response_bytes = max_response_bytes

    @override
    async def BatchGenerate(self, request: pb.BatchGenerateRequest, context: _Context) -> pb.BatchGenerateResponse:
        """Return every item's outcome, in the order of the request."""
        _check(request)
        results: dict[int, pb.BatchItemResult] = {}
        room = _Room(self._max_response_bytes, len(request.items))
        async with aclosing(self._land(request.items)) as landings:
            async for index, result in landings:
                results[index] = room.fitted(result)
        return pb.BatchGenerateResponse(results=[results[index] for index in range(len(request.items))])

    @override
    async def StreamBatchGenerate(
        self, request: pb.StreamBatchGenerateRequest, context: _Context
    ) -> AsyncIterator[pb.StreamBatchGenerateResponse]:
        """Yield each item's outcome as it lands."""
        _check(request)
        finished = pb.BatchFinished()
        sequence = 0
        async with aclosing(self._land(request.items)) as landings:
            async for _, result in landings:
                sequence += 1
                _add(finished, result)
                yield pb.StreamBatchGenerateResponse(sequence=sequence, result=result)
        yield pb.StreamBatchGenerateResponse(sequence=sequence + 1, finished=finished)

    async def _land(self, items: Sequence[pb.BatchItem]) -> AsyncGenerator[tuple[int, pb.BatchItemResult], None]:
        """Yield items' outcomes with their positions as they land; closing it early ends those that still run."""
        call = CURRENT_CALL.get()
        waiting = iter(enumerate(items))
        running: set[asyncio.Task[tuple[int, pb.BatchItemResult]]] = set()
        try:
            while True:
                while len(running) < self._concurrency and (entry := next(waiting, None)):
                    running.add(asyncio.create_task(self._run(*entry, call)))
                if not running:
                    return
                landed, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in landed:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, index: int, item: pb.BatchItem, call: Call) -> tuple[int, pb.BatchItemResult]:
        generation_id = new_generation_id()
        path = f"items[{index}]"
        try:
            generation = await self._generate(item, path, call, generation_id)
        except Exception as error:  # noqa: BLE001 - an item's failure is its own, and becomes its status
            if not is_mapped(error):
                log_defect(error, call)
            return index, pb.BatchItemResult(id=item.id, error=status_of(error, generation_id=generation_id))
        return index, pb.BatchItemResult(id=item.id, generation=generation)

    async def _generate(self, item: pb.BatchItem, path: str, call: Call, generation_id: str) -> types_pb2.Generation:
        checker = FieldChecker()
        checker.only_known(item, path)
        checker.raise_if_any()
        if not item.HasField("spec"):
            raise InvalidRequest(f"{path}.spec", "is required")
        run = GenerationRun(item.spec, f"{path}.spec", call, generation_id)
        return await run.whole(self._registry, self._monitor, self._budget, self._max_response_bytes)


class _Room:
    """Keeps a response within its bound: each item has some of it for itself, the first to land have the rest.

    Args:
        max_bytes: The bound.
        items: How many.
    """

    def __init__(self, max_bytes: int, items: int) -> None:
        self._max_bytes = max_bytes
        self._own_bytes = min(_OWN_BYTES, max_bytes // items)
        self._left_bytes = max_bytes - self._own_bytes * items

    def fitted(self, result: pb.BatchItemResult) -> pb.BatchItemResult:
        """Return an item's result, or its error where there is no room for it."""
        beyond = result.ByteSize() - self._own_bytes
        if beyond <= self._left_bytes or not result.HasField("generation"):
            self._left_bytes -= max(0, beyond)
            return result
        error = status_of(ResponseTooLarge(self._max_bytes), generation_id=result.generation.started.generation_id)
        return pb.BatchItemResult(id=result.id, error=error)


def _check(request: pb.BatchGenerateRequest | pb.StreamBatchGenerateRequest) -> None:
    """Refuse a call whose items cannot be told apart.

    Raises:
        InvalidFields: There are none or too many, or their ids are empty, too long or used twice.
    """
    checker = FieldChecker()
    checker.only_known(request, "")
    if not 1 <= len(request.items) <= MAX_ITEMS:
        checker.refuse("items", f"must have 1 to {MAX_ITEMS} items")
    seen: set[str] = set()
    for index, item in enumerate(request.items[:MAX_ITEMS]):
        if not 1 <= len(item.id) <= MAX_ID_CHARACTERS:
            checker.refuse(f"items[{index}].id", f"must have 1 to {MAX_ID_CHARACTERS} characters")
        elif item.id in seen:
            checker.refuse(f"items[{index}].id", "must be used once")
        seen.add(item.id)
    checker.raise_if_any()


def _add(finished: pb.BatchFinished, result: pb.BatchItemResult) -> None:
    if not result.HasField("generation"):
        finished.failed += 1
        return
    finished.succeeded += 1
    usage = result.generation.finished.usage
    finished.usage.prompt_tokens += usage.prompt_tokens
    finished.usage.output_tokens += usage.output_tokens
    finished.usage.cached_prompt_tokens += usage.cached_prompt_tokens
    finished.usage.reasoning_tokens += usage.reasoning_tokens
