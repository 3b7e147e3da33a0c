"""Takes an engine's chunks as they come, whatever their consumer does, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self

from qwire.engine.chunk import TokenChunk

# What CPython (64 bit) takes, pointers included.
_CHUNK_BYTES = 224
_TOKEN_BYTES = 36
_LOGPROBS_BYTES = 112
_TOP_LOGPROB_BYTES = 116

_JOINED = 64  # so many chunks are held as one: of a token each, they would take four times as much


class BufferBudget:
    """How much streams may hold that their consumers have not taken yet. Used from one event loop.

    Args:
        max_bytes: All streams together, bytes, >= 0.
        max_stream_bytes: One of them, bytes, >= 0. One chunk it may always hold.

    Attributes:
        used_bytes: What all streams hold now, by what their tokens take in memory.
    """

    def __init__(self, max_bytes: int, max_stream_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_stream_bytes = max_stream_bytes
        self.used_bytes = 0
        self._released = asyncio.Event()

    async def take(self, stream: ReadAhead, chunk_bytes: int) -> None:
        """Count bytes that a stream is about to hold, once there is room for them."""
        while stream.held_bytes and (
            stream.held_bytes + chunk_bytes > self._max_stream_bytes or self.used_bytes + chunk_bytes > self._max_bytes
        ):
            self._released.clear()
            await self._released.wait()
        self.used_bytes += chunk_bytes

    def give_back(self, held_bytes: int) -> None:
        """Take note that bytes are held no longer."""
        self.used_bytes -= held_bytes
        self._released.set()


class ReadAhead:
    """Reads a generation ahead of its consumer: it gets one chunk at once, or all that came while it was busy as one.

    So an engine gets rid of a generation, and can give its place to another one, while a consumer that reads slowly, or
    not at all, still has tokens to take. Where there is no room for more, they stay where they come from.

    Args:
        chunks: The generation; closed at the end, however it comes.
        budget: How much may be held.

    Attributes:
        held_bytes: What is held now.

    Example:
        async with ReadAhead(engine.generate(request), budget) as ahead:
            while (chunk := await ahead.next()) is not None:
                ...
    """

    def __init__(self, chunks: AsyncGenerator[TokenChunk, None], budget: BufferBudget) -> None:
        self._chunks = chunks
        self._budget = budget
        self._held: list[TokenChunk] = []
        self._loose = 0  # of them, at the end, are to be joined
        self.held_bytes = 0
        self._failure: Exception | None = None
        self._over = False
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._release(self.held_bytes)

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is something to take, but no longer than this.

        Raises:
            Exception: What the generation raised, where that came before its first chunk.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return
        if self._failure is not None and not self._held:
            raise self._failure

    async def next(self) -> TokenChunk | None:
        """Wait for chunks and take all there are, those that tell of the prompt one by one; None = there are no more.

        Raises:
            Exception: What the generation raised, once its chunks are taken.
        """
        await self._ready.wait()
        if not self._held:
            if self._failure is not None:
                raise self._failure
            return None
        taken = self._held[:1] if self._held[0].prompt_logprobs else self._held
        self._held = self._held[len(taken) :]
        self._loose = min(self._loose, len(self._held))
        self._release(sum(map(_bytes_of, taken)))
        if not (self._over or self._held):
            self._ready.clear()
        return _joined(taken)

    async def _read(self) -> None:
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    chunk_bytes = _bytes_of(chunk)
                    await self._budget.take(self, chunk_bytes)
                    self.held_bytes += chunk_bytes
                    self._held.append(chunk)
                    self._join()
                    self._ready.set()
        except Exception as error:  # noqa: BLE001 - raised where the chunks are taken
            self._failure = error
        finally:
            self._over = True
            self._ready.set()

    def _join(self) -> None:
        self._loose = 0 if self._held[-1].prompt_logprobs else self._loose + 1
        if self._loose == _JOINED:
            self._held[-_JOINED:] = [_joined(self._held[-_JOINED:])]
            self._release((_JOINED - 1) * _CHUNK_BYTES)
            self._loose = 0

    def _release(self, taken_bytes: int) -> None:
        self.held_bytes -= taken_bytes
        self._budget.give_back(taken_bytes)


def _joined(chunks: list[TokenChunk]) -> TokenChunk:
    if len(chunks) == 1:
        return chunks[0]
    return replace(
        chunks[0],
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        finish=chunks[-1].finish,
        logprobs=tuple(record for chunk in chunks for record in chunk.logprobs),
        timings=next((chunk.timings for chunk in chunks if chunk.timings is not None), None),
        cached_prompt_tokens=max(chunk.cached_prompt_tokens for chunk in chunks),
        adapter_sha256=max(chunk.adapter_sha256 for chunk in chunks),
        drafted_tokens=chunks[-1].drafted_tokens,
        accepted_tokens=chunks[-1].accepted_tokens,
        preemptions=chunks[-1].preemptions,
    )


def _bytes_of(chunk: TokenChunk) -> int:
    records = [*chunk.logprobs, *(record for record in chunk.prompt_logprobs if record is not None)]
    top = sum(len(record.top) for record in records)
    return (
        _CHUNK_BYTES + len(chunk.token_ids) * _TOKEN_BYTES + len(records) * _LOGPROBS_BYTES + top * _TOP_LOGPROB_BYTES
    )
