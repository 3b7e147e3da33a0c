"""Mistakes that somebody could make: each takes a function and returns what does it wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from qwire.client.generation_reader import GenerationReader
from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import QueueFull
from qwire.engine.sequence import Sequence
from qwire.engine.waiting_queue import WaitingQueue
from qwire.rpc.generation import GenerationRun
from qwire.text.generator import Generator
from qwire.text.read_ahead import BufferBudget, ReadAhead
from qwire.v1 import health_pb2


def drop_last(next_chunk: Any) -> Any:
    async def broken(self: ReadAhead) -> TokenChunk | None:
        chunk = await next_chunk(self)
        return chunk if chunk is None or chunk.finish is None else replace(chunk, token_ids=())

    return broken


def forget(add: Any) -> Any:
    def broken(self: Any, chunk: TokenChunk) -> TokenChunk | None:
        add(self, replace(chunk, token_ids=()))
        return chunk

    return broken


def lose(rest: Any) -> Any:
    def broken(self: Any) -> Any:
        request = rest(self)
        ids = request.output_token_ids
        return replace(request, output_token_ids=(*ids, ids[-1])) if ids else request

    return broken


def resume_early(rest: Any) -> Any:
    def broken(self: GenerationReader, request: Any) -> Any:
        asked = rest(self, request)
        if asked.spec.resume.output_token_ids:
            asked.spec.resume.output_token_ids.pop()
        return asked

    return broken


def say_cancelled(cancel: Any) -> Any:
    del cancel

    async def broken(self: Generator, generation_id: str) -> bool:
        del self, generation_id
        return True

    return broken


def no_deadline(call: Any) -> Any:
    def broken(self: Any, *arguments: Any) -> Any:
        return replace(call(self, *arguments), deadline_unix_ns=time.time_ns() + 3600 * 10**9)

    return broken


def level_priorities(order: Any) -> Any:
    def broken(self: WaitingQueue, sequence: Sequence) -> tuple[int, ...]:
        return (0, *order(self, sequence)[1:])

    return broken


def never_wait(take: Any) -> Any:
    del take

    async def broken(self: BufferBudget, stream: ReadAhead, chunk_bytes: int) -> None:
        del stream
        self.used_bytes += chunk_bytes

    return broken


def twice(give_back: Any) -> Any:
    def broken(self: BufferBudget, held_bytes: int) -> None:
        give_back(self, held_bytes)
        give_back(self, held_bytes)

    return broken


def hide_overload(status_of: Any) -> Any:
    def broken(error: BaseException, **told: Any) -> Any:
        return status_of(RuntimeError() if isinstance(error, QueueFull) else error, **told)

    return broken


def end_early(responses: Any) -> Any:
    async def broken(self: GenerationRun, *arguments: Any) -> AsyncGenerator[Any]:
        async for response in responses(self, *arguments):
            if response.HasField("finished"):
                return
            yield response

    return broken


def always_ready(judge: Any) -> Any:
    def broken(*arguments: Any) -> health_pb2.ModelServingState:
        state = judge(*arguments)
        state.state = health_pb2.SERVING_STATE_READY
        return state

    return broken
