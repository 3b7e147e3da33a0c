"""What a request needs beside the model before it can be queued: a matcher for its constraint, and its adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from qwire.engine.adapter import Adapter
from qwire.engine.adapter_cache import AdapterCache
from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, GenerationCancelled
from qwire.engine.matcher import Matcher
from qwire.engine.matcher_factory import MatcherFactory
from qwire.engine.request import TokenRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request needs.

    Attributes:
        matcher: Follows its constraint; None = it has none.
        adapter: Is applied to the model for it; None = none is.
    """

    matcher: Matcher | None = None
    adapter: Adapter | None = None


class Preparation:
    """Prepares requests, off the event loop that it belongs to. Those under way can be cancelled.

    Args:
        matchers: Makes matchers.
        adapters: Lends adapters.
    """

    def __init__(self, matchers: MatcherFactory, adapters: AdapterCache) -> None:
        self._matchers = matchers
        self._adapters = adapters
        self._under_way: dict[str, asyncio.Task[Prepared]] = {}
        self._closed = False

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._under_way

    @asynccontextmanager
    async def of(self, request: TokenRequest) -> AsyncGenerator[Prepared]:
        """Yield what a request needs; its adapter is its own until the context ends.

        Raises:
            InvalidRequest: The constraint cannot be used.
            AdapterNotFound: There is no adapter of this name.
            AdapterUnusable: The adapter cannot be applied to the model.
            QueueFull: Too many wait for their matchers, or for an adapter.
            DeadlineExceeded: The deadline passed meanwhile.
            GenerationCancelled: `cancel` was called meanwhile.
            EngineUnavailable: `close` was called meanwhile.
        """
        if request.constraint is None and not request.adapter:
            yield Prepared()
            return
        user = object()
        try:
            yield await self._wait(request, user)
        finally:
            self._adapters.release(user)

    def cancel(self, request_id: str) -> bool:
        """End the preparation of this request; False = it is not under way."""
        task = self._under_way.pop(request_id, None)
        if task is not None:
            task.cancel()
        return task is not None

    def close(self) -> None:
        """End all that are under way."""
        self._closed = True
        for task in self._under_way.values():
            task.cancel()

    async def _wait(self, request: TokenRequest, user: object) -> Prepared:
        request_id, deadline = request.envelope.request_id, request.envelope.deadline_unix_ns
        left_s = None if deadline is None else max(0.0, (deadline - time.time_ns()) / 1e9)
        task = self._under_way[request_id] = asyncio.create_task(self._prepare(request, user))
        try:
            await asyncio.wait({task}, timeout=left_s)
            if self._closed:
                raise EngineUnavailable
            # Another one may have come under the same id since it was cancelled.
            if self._under_way.get(request_id) is not task:
                raise GenerationCancelled
            if not task.done():
                raise DeadlineExceeded
            return task.result()
        finally:
            if self._under_way.get(request_id) is task:
                del self._under_way[request_id]
            task.cancel()

    async def _prepare(self, request: TokenRequest, user: object) -> Prepared:
        constraint, output, admitted = request.constraint, request.output_token_ids, request.envelope.admitted
        matcher = None if constraint is None else await self._matchers.matcher(constraint, output, admitted=admitted)
        adapter = None
        if request.adapter:
            asked = request.adapter, user, request.adapter_sha256
            adapter = await self._adapters.acquire(*asked, admitted=admitted)
        return Prepared(matcher, adapter)
