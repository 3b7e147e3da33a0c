"""Makes the matchers of requests, off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from llguidance import LLTokenizer

from qwire.engine.config import EngineConfig
from qwire.engine.constraint import Constraint
from qwire.engine.errors import InvalidRequest, QueueFull
from qwire.engine.matcher import Matcher
from qwire.engine.protocol import ModelCard

_COMPILE_S = 10.0
"""The library's limits end nearly every compilation within a second."""

_RETRY_S = 1.0


class MatcherFactory:
    """Makes matchers over one model's vocabulary. Belongs to one event loop.

    The vocabulary is read when the first constraint comes, which takes about a second for Qwen's.

    Args:
        tokenizer_file: The checkpoint's tokenizer.json.
        card: The model, with end-of-sequence tokens.
        config: Bounds who is in the engine, and so who may wait here.
    """

    def __init__(self, tokenizer_file: Path, card: ModelCard, config: EngineConfig) -> None:
        self._tokenizer_file = tokenizer_file
        self._card = card
        self._max_waiting = config.max_running + config.max_waiting
        self._waiting = 0
        # One thread of its own, with one grammar at a time: those that take long delay only one another, and who waits
        # and leaves leaves nothing behind.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qwire-grammar")
        self._free = asyncio.Lock()

    async def matcher(
        self, constraint: Constraint, output_token_ids: tuple[int, ...], *, admitted: bool = False
    ) -> Matcher:
        """Return a matcher that stands after the output that its request came with; it may have to wait for others.

        Args:
            constraint: What it follows.
            output_token_ids: The output that the request came with.
            admitted: No bound refuses it, see `Envelope`.

        Raises:
            InvalidRequest: The constraint cannot be used, or took too long; or the output does not match it.
            QueueFull: Too many wait.
        """
        if self._waiting >= self._max_waiting and not admitted:
            raise QueueFull(_RETRY_S)
        self._waiting += 1
        try:
            await self._free.acquire()  # the time of those before it is not its fault
            job = self._thread.submit(self._make, constraint, output_token_ids)
            loop = asyncio.get_running_loop()
            # When the thread is done with it, which may be long after who asked has left.
            job.add_done_callback(lambda _: self._release(loop))
            async with asyncio.timeout(_COMPILE_S):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise InvalidRequest(constraint.field, f"It was not compiled within {_COMPILE_S:g} s.") from None
        finally:
            self._waiting -= 1

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the event loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(self._free.release)

    def _make(self, constraint: Constraint, output_token_ids: tuple[int, ...]) -> Matcher:
        matcher = Matcher(constraint, self._tokenizer, self._card.eos_token_ids)
        if matcher.mask(output_token_ids) is None:
            raise InvalidRequest("resume.output_token_ids", "The output does not match the constraint.")
        return matcher

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return LLTokenizer(
            self._tokenizer_file.read_text(encoding="utf-8"),
            n_vocab=self._card.vocabulary_tokens,
            eos_token=sorted(self._card.eos_token_ids),
        )
