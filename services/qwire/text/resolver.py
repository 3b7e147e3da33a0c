"""From what a caller asks for to what the engine is asked for, within what the model can do."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from qwire.engine.errors import ContextLengthExceeded, InvalidRequest
from qwire.engine.protocol import ModelCard
from qwire.engine.request import SamplingParams, StopParams, TokenRequest
from qwire.text.request import (
    ChatPrompt,
    GenerationRequest,
    Prompt,
    SamplingOptions,
    StopOptions,
    TextPrompt,
    TokenPrompt,
)

_SEED_BITS = 64


class RequestResolver:
    """Checks requests against a model and fills in what they leave to it.

    Args:
        card: The model.
    """

    def __init__(self, card: ModelCard) -> None:
        self._card = card

    def check_length(self, prompt: Prompt, prompt_tokens: int) -> None:
        """Check that a prompt leaves room in the context for at least one token of output.

        Args:
            prompt: The prompt.
            prompt_tokens: How many tokens it has, or has at least.

        Raises:
            ContextLengthExceeded: It does not; names the field of the prompt.
        """
        context = self._card.context_tokens
        if prompt_tokens >= context:
            raise ContextLengthExceeded(
                _field(prompt),
                f"has at least {prompt_tokens} tokens; the model's context holds {context}, prompt and output together",
            )

    def resolve(self, request: GenerationRequest, prompt_token_ids: Sequence[int]) -> TokenRequest:
        """Return what the engine is asked for.

        Args:
            request: What the caller asks for.
            prompt_token_ids: Its prompt.

        Raises:
            InvalidRequest: A field is out of this model's range, or does not fit another field.
            ContextLengthExceeded: Prompt and output do not fit the context.
        """
        if not prompt_token_ids:
            raise InvalidRequest(_field(request.prompt), "must have at least one token")
        if isinstance(request.prompt, TokenPrompt):
            self._check_vocabulary(prompt_token_ids, "tokens.ids")
        self.check_length(request.prompt, len(prompt_token_ids))
        stop = self._stop(request.stop, len(prompt_token_ids))
        sampling = self._sampling(request.sampling)
        resumed: tuple[int, ...] = ()
        if request.resume is not None:
            resumed = request.resume.output_token_ids
            self._check_resume(resumed, stop)
            if sampling.temperature > 0 and request.sampling.seed is None:
                raise InvalidRequest("sampling.seed", "is required to resume a sampled generation")
        return TokenRequest(
            tuple(prompt_token_ids),
            request.envelope,
            stop,
            sampling,
            resumed,
            request.top_logprobs,
            request.constraint,
        )

    def _stop(self, options: StopOptions, prompt_tokens: int) -> StopParams:
        card = self._card
        self._check_vocabulary(options.stop_token_ids, "stop.stop_token_ids")
        room = card.context_tokens - prompt_tokens
        limit = options.max_output_tokens
        if limit is None:
            limit = min(card.default_max_output_tokens, room)
        elif not 1 <= limit <= card.max_output_tokens:
            raise InvalidRequest("stop.max_output_tokens", f"must be from 1 to {card.max_output_tokens}")
        elif limit > room:
            raise ContextLengthExceeded(
                "stop.max_output_tokens",
                f"must be at most {room}: the prompt has {prompt_tokens} tokens, the model's context holds"
                f" {card.context_tokens}",
            )
        if not 0 <= options.min_output_tokens <= limit:
            raise InvalidRequest("stop.min_output_tokens", f"must be from 0 to max_output_tokens, which is {limit}")
        return StopParams(limit, options.min_output_tokens, options.stop_token_ids, options.ignore_eos)

    def _sampling(self, options: SamplingOptions) -> SamplingParams:
        chosen = {name: value for name, value in asdict(options).items() if value is not None}
        return replace(self._card.default_sampling, **({"seed": secrets.randbits(_SEED_BITS)} | chosen))

    def _check_resume(self, token_ids: Sequence[int], stop: StopParams) -> None:
        if not 1 <= len(token_ids) <= stop.max_output_tokens:
            raise InvalidRequest(
                "resume.output_token_ids",
                f"must have at least one token and at most max_output_tokens, which is {stop.max_output_tokens}",
            )
        self._check_vocabulary(token_ids, "resume.output_token_ids")

    def _check_vocabulary(self, token_ids: Iterable[int], field: str) -> None:
        size = self._card.vocabulary_tokens
        if any(not 0 <= token_id < size for token_id in token_ids):
            raise InvalidRequest(field, f"every id must be from 0 to {size - 1}, the model's vocabulary")


def _field(prompt: Prompt) -> str:
    match prompt:
        case ChatPrompt():
            return "chat"
        case TextPrompt():
            return "text"
        case TokenPrompt():
            return "tokens"
