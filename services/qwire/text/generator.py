"""Generates text with one model: a request in, started, deltas and finished out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import EngineUnavailable
from qwire.engine.protocol import Engine, ModelCard
from qwire.engine.request import TokenRequest
from qwire.text.errors import UnusableTokenizer
from qwire.text.event import GenerationEvent, Started
from qwire.text.generation import Generation
from qwire.text.processor import TextProcessor
from qwire.text.request import GenerationRequest, Prompt
from qwire.text.resolver import RequestResolver

_INLINE_CHARACTERS = 16_384
"""Shorter prompts are tokenised where they are, in a few milliseconds at most; longer ones in a thread."""

_REFUSAL_WAIT_S = 0.05
"""How long `Started` waits for the engine to refuse the request, which it does at once if at all."""


class Generator:
    """Generates with one model. Fields in its errors are those of `qwire.v1.GenerationSpec`.

    Args:
        processor: The model's text processor.
        engine: Where its tokens come from.
        card: What the model is.

    Raises:
        UnusableTokenizer: The tokenizer knows token ids that the model does not: they do not belong together.
    """

    def __init__(self, processor: TextProcessor, engine: Engine, card: ModelCard) -> None:
        if processor.vocabulary_tokens > card.vocabulary_tokens:
            raise UnusableTokenizer(
                f"the tokenizer has {processor.vocabulary_tokens} tokens, the model {card.vocabulary_tokens}"
            )
        self._processor = processor
        self._engine = engine
        self._card = card
        self._resolver = RequestResolver(card)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model takes conversations."""
        return self._processor.has_chat_template

    def count(self, prompt: Prompt) -> int:
        """Return how many tokens a prompt has. Takes a microsecond or two a token: run it in a thread if that matters.

        Raises:
            InvalidRequest: The prompt cannot be encoded.
        """
        return len(self._processor.encode(prompt))

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Generate: `Started` once the engine has the request, a `Delta` for each chunk, `Finished` at the end.

        Closing the iterator ends the generation in the engine. It has ended there before `Finished` is yielded.

        Raises:
            InvalidRequest: A field is out of range.
            ContextLengthExceeded: Prompt and output do not fit the model's context.
            EngineError: Whatever the engine raises; EngineUnavailable where it ends without saying why.
        """
        prompt_token_ids = await self._encode(request.prompt)
        token_request = self._resolver.resolve(request, prompt_token_ids)
        stop_strings = request.stop.stop_strings
        output = self._processor.output_text(stop_strings, token_request.stop.min_output_tokens)
        generation = Generation(token_request, output, self._card.eos_token_ids)
        started = Started(len(prompt_token_ids), token_request.sampling, token_request.stop, stop_strings)
        if generation.finished is not None:
            yield started
            yield generation.finished
            return
        delta = None
        async with aclosing(self._chunks(token_request)) as chunks:
            async for chunk in chunks:
                if chunk is None:
                    yield started
                    continue
                delta = generation.advance(chunk)
                if generation.finished is not None:
                    break
                yield delta
        if delta is None or generation.finished is None:
            raise EngineUnavailable
        yield delta
        yield generation.finished

    async def _encode(self, prompt: Prompt) -> list[int]:
        characters = self._processor.characters(prompt)
        # Before any work is done: a text that certainly does not fit.
        self._resolver.check_length(prompt, characters // self._processor.token_characters)
        if characters > _INLINE_CHARACTERS:
            return await asyncio.to_thread(self._processor.encode, prompt)
        return self._processor.encode(prompt)

    async def _chunks(self, request: TokenRequest) -> AsyncGenerator[TokenChunk | None, None]:
        """Yield None once the engine has not refused the request, then its chunks.

        A request in the engine's queue counts as accepted, so that its caller learns the id to cancel it by.
        """
        async with aclosing(self._engine.generate(request)) as chunks:
            first = asyncio.ensure_future(_next(chunks))
            try:
                await asyncio.wait({first}, timeout=_REFUSAL_WAIT_S)
                if first.done():
                    first.result()
                yield None
                chunk = await first
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            if chunk is not None:
                yield chunk
            async for later in chunks:
                yield later


async def _next(chunks: AsyncGenerator[TokenChunk, None]) -> TokenChunk | None:
    """Return the next chunk; None = there is none."""
    async for chunk in chunks:
        return chunk
    return None
