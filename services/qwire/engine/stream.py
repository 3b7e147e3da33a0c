"""One generation's way back to its consumer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

from qwire.engine.chunk import MAX_PROMPT_RECORDS, Finish, Timings, TokenChunk, TokenLogprobs
from qwire.engine.errors import EngineError
from qwire.engine.sequence import Sequence


class TokenStream:
    """Holds the tokens that the consumer has not taken yet: it gets one at once, or all that came while it was busy.

    What was asked about the prompt comes before them. Lives in one event loop. Its size is bounded by the request's
    prompt and `max_output_tokens`.

    Args:
        sequence: Whose tokens they are.
    """

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        # Nothing is before a prompt's first token.
        asked = sequence.request.prompt_logprobs is not None
        self._prompt_logprobs: list[TokenLogprobs | None] = [None] if asked else []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finish: Finish | None = None
        self._failure: EngineError | None = None
        self._ready = asyncio.Event()
        self._begun = False

    def put_prompt(self, logprobs: Iterable[TokenLogprobs]) -> None:
        """Add the records of the prompt's next tokens."""
        before = len(self._prompt_logprobs)
        self._prompt_logprobs += logprobs
        if len(self._prompt_logprobs) > before:
            self._ready.set()

    def put(self, token_id: int, finish: Finish | None, logprobs: TokenLogprobs | None = None) -> None:
        """Add the next token; `finish` with the last one, `logprobs` with each or none."""
        self._token_ids.append(token_id)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        self._finish = finish
        self._ready.set()

    def fail(self, failure: EngineError) -> None:
        """End the stream after the tokens that it holds."""
        self._failure = self._failure or failure
        self._ready.set()

    async def next(self) -> TokenChunk:
        """Wait for tokens and take all there are; or some of what is there about the prompt.

        Raises:
            EngineError: The stream failed, and what it held is taken.
        """
        await self._ready.wait()
        if self._prompt_logprobs:
            return self._next_of_prompt()
        if not self._token_ids and self._failure is not None:
            raise self._failure
        sequence = self.sequence
        accepted_tokens = sequence.accepted_tokens  # first: the engine goes on, and they are never more than drafted
        chunk = TokenChunk(
            tuple(self._token_ids),
            self._finish,
            logprobs=tuple(self._logprobs),
            drafted_tokens=sequence.drafted_tokens,
            accepted_tokens=accepted_tokens,
            preemptions=sequence.preemptions,
        )
        if not self._begun:
            chunk = self._with_beginning(chunk)
        self._begun = True
        self._token_ids.clear()
        self._logprobs.clear()
        if self._failure is None:
            self._ready.clear()
        return chunk

    def _next_of_prompt(self) -> TokenChunk:
        records = tuple(self._prompt_logprobs[:MAX_PROMPT_RECORDS])
        del self._prompt_logprobs[: len(records)]
        if not (self._prompt_logprobs or self._token_ids or self._failure):
            self._ready.clear()
        return TokenChunk((), prompt_logprobs=records, adapter_sha256=self._adapter_sha256)

    def _with_beginning(self, chunk: TokenChunk) -> TokenChunk:
        """Return the first chunk with what is known of the generation as it begins."""
        sequence = self.sequence
        return replace(
            chunk,
            timings=Timings(
                sequence.arrived_unix_ns, sequence.scheduled_unix_ns, sequence.first_token_unix_ns, time.time_ns()
            ),
            cached_prompt_tokens=sequence.cached_prompt_tokens,
            adapter_sha256=self._adapter_sha256,
        )

    @property
    def _adapter_sha256(self) -> str:
        adapter = self.sequence.adapter
        return "" if adapter is None else adapter.sha256
