"""Generates text with one model: a request in; started, the prompt, deltas, tool calls and finished out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import EngineUnavailable
from qwire.engine.protocol import Engine, ModelCard
from qwire.engine.request import TokenRequest
from qwire.text.abilities import TextAbilities
from qwire.text.constrained_splitter import ConstrainedSplitter
from qwire.text.errors import UnusableTokenizer
from qwire.text.event import GenerationEvent, Started
from qwire.text.generation import Generation, ModelEnds, answer_id
from qwire.text.processor import TextProcessor
from qwire.text.prompt_reading import PromptReading
from qwire.text.read_ahead import BufferBudget, ReadAhead
from qwire.text.request import GenerationRequest, Prompt
from qwire.text.resolver import RequestResolver
from qwire.text.splitter import Splitter

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
        self._ends = ModelEnds(card.eos_token_ids, processor.end_of_thinking)

    @property
    def abilities(self) -> TextAbilities:
        """What the model takes and says beyond plain text."""
        return self._processor.abilities

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

    async def stream(
        self, request: GenerationRequest, budget: BufferBudget | None = None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate: `Started` once the engine has the request, what each chunk gives, `Finished` at the end.

        Closing the iterator ends the generation in the engine. It has ended there before `Finished` is yielded.

        Args:
            request: What to generate.
            budget: How far the engine may be ahead of who iterates; None = by one chunk.

        Raises:
            InvalidRequest: A field is out of range.
            ContextLengthExceeded: Prompt and output do not fit the model's context.
            EngineError: Whatever the engine raises; EngineUnavailable where it ends without saying why.
        """
        budget = budget or BufferBudget(0, 0)
        prompt_token_ids = await self._encode(request.prompt)
        token_request = self._resolve(request, prompt_token_ids)
        generation = self._generation(request, token_request)
        prompt = self._prompt_reading(request, token_request)
        started: Started | None = Started(
            len(prompt_token_ids), token_request.sampling, token_request.stop, request.stop.stop_strings
        )
        while generation.finished is None:
            events: Sequence[GenerationEvent] = ()
            asked = generation.request
            async with aclosing(self._chunks(asked, budget)) as chunks:
                async for chunk in chunks:
                    if chunk is not None:
                        events = [*prompt.advance(chunk.prompt_logprobs), *generation.advance(chunk)]
                        if generation.finished is not None or generation.request is not asked:
                            break
                    elif started is not None:
                        events, started = (started, *prompt.begin(), *generation.opening), None
                    for event in events:
                        yield event
                    events = ()
                else:
                    raise EngineUnavailable
            for event in events:
                yield event
        if started is not None:
            for event in (started, *prompt.begin(), *generation.opening):
                yield event
        yield generation.finished

    async def cancel(self, generation_id: str) -> bool:
        """End the generation of this id, whoever iterates it. False = no such generation waits or runs.

        Raises:
            EngineUnavailable: The engine cannot tell.
        """
        # Once its thinking was ended for it, it goes on in the engine under the other id.
        keys = (generation_id, answer_id(generation_id))
        found = await asyncio.gather(*map(self._engine.cancel, keys), return_exceptions=True)
        for outcome in found:
            if isinstance(outcome, BaseException) and True not in found:
                raise outcome
        return True in found

    def _resolve(self, request: GenerationRequest, prompt_token_ids: Sequence[int]) -> TokenRequest:
        resolved = self._resolver.resolve(request, prompt_token_ids)
        if request.constraint is None:
            return resolved
        constraint = self._processor.constrained(request.constraint, request.prompt, prompt_token_ids)
        return replace(resolved, constraint=constraint)

    def _generation(self, request: GenerationRequest, token_request: TokenRequest) -> Generation:
        constraint = token_request.constraint
        splitter: Splitter
        if constraint is None:
            splitter = self._processor.splitter(
                request.prompt, token_request.prompt_token_ids, fragments=request.tool_call_fragments
            )
        else:
            splitter = ConstrainedSplitter(constraint.opening_token_id, constraint.after_token_id)
        output = self._processor.output_text(
            request.stop.stop_strings,
            token_request.stop.min_output_tokens,
            splitter=splitter,
            budget_tokens=request.reasoning_budget_tokens,
        )
        ends = self._ends
        if constraint is not None:
            ends = ends.up_to(constraint.after_token_id)
        return Generation(token_request, output, ends)

    def _prompt_reading(self, request: GenerationRequest, token_request: TokenRequest) -> PromptReading:
        echo = request.echo and request.resume is None
        detokenizer = self._processor.prompt_detokenizer() if echo else None
        scored = token_request.prompt_logprobs is not None
        return PromptReading(token_request.prompt_token_ids, detokenizer, scored=scored)

    async def _encode(self, prompt: Prompt) -> list[int]:
        characters = self._processor.characters(prompt)
        # Before any work is done: a text that certainly does not fit.
        self._resolver.check_length(prompt, characters // self._processor.token_characters)
        if characters > _INLINE_CHARACTERS:
            return await asyncio.to_thread(self._processor.encode, prompt)
        return self._processor.encode(prompt)

    async def _chunks(self, request: TokenRequest, budget: BufferBudget) -> AsyncGenerator[TokenChunk | None, None]:
        """Yield None once the engine has not refused the request, then its chunks.

        A request in the engine's queue counts as accepted, so that its caller learns the id to cancel it by.
        """
        async with ReadAhead(self._engine.generate(request), budget) as ahead:
            await ahead.wait(_REFUSAL_WAIT_S)
            yield None
            while (chunk := await ahead.next()) is not None:
                yield chunk
