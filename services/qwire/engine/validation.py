"""Refuses what an engine cannot generate. Field paths are those of `qwire.v1.GenerationSpec`."""

from __future__ import annotations

from collections.abc import Iterable

from qwire.engine.adapter import ADAPTER_ID, ADAPTER_ID_RULE
from qwire.engine.errors import CapacityExceeded, ContextLengthExceeded, InvalidRequest
from qwire.engine.protocol import ModelCard
from qwire.engine.request import (
    MAX_LOGIT_BIAS,
    MAX_LOGIT_BIASES,
    MAX_TOP_LOGPROBS,
    SamplingParams,
    StopParams,
    TokenRequest,
)

_MAX_SEED = 2**64 - 1


def check_request(request: TokenRequest, card: ModelCard, kv_capacity_tokens: int) -> None:
    """Raise what is wrong with a request.

    Raises:
        InvalidRequest: A field is out of range.
        ContextLengthExceeded: Prompt and `max_output_tokens` exceed the model's context.
        CapacityExceeded: They exceed the whole KV cache.
    """
    prompt_tokens = len(request.prompt_token_ids)
    if prompt_tokens == 0:
        raise InvalidRequest("tokens.ids", "The prompt is empty; it must have at least one token.")
    _check_token_ids("tokens.ids", request.prompt_token_ids, card)
    _check_token_ids("resume.output_token_ids", request.output_token_ids, card)
    _check_token_ids("stop.stop_token_ids", request.stop.stop_token_ids, card)
    _check_stop(request.stop, len(request.output_token_ids))
    _check_sampling(request.sampling)
    _check_logit_bias(request.sampling.logit_bias, card)
    _check_logprobs("output.top_logprobs", request.top_logprobs)
    _check_logprobs("output.prompt_logprobs", request.prompt_logprobs)
    if request.constraint is not None:
        _check_constraint(request, card)
    if request.adapter and not card.adapters:
        raise InvalidRequest("adapter", "This model takes no adapters.")
    if request.adapter and not ADAPTER_ID.fullmatch(request.adapter):
        raise InvalidRequest("adapter", f"It {ADAPTER_ID_RULE}.")
    needed = prompt_tokens + request.stop.max_output_tokens
    if needed > card.context_tokens:
        raise ContextLengthExceeded(
            "stop.max_output_tokens",
            f"{prompt_tokens} prompt tokens and {request.stop.max_output_tokens} output tokens exceed the model's "
            f"context of {card.context_tokens} tokens.",
        )
    if needed > kv_capacity_tokens:
        raise CapacityExceeded(needed, kv_capacity_tokens)


def _check_logprobs(field: str, top: int | None) -> None:
    if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(field, f"It is {top}; it must be 0 to {MAX_TOP_LOGPROBS}.")


def _check_constraint(request: TokenRequest, card: ModelCard) -> None:
    constraint = request.constraint
    if not card.constraints:
        raise InvalidRequest("constraint", "This model follows no constraints.")
    if request.stop.ignore_eos:
        raise InvalidRequest("stop.ignore_eos", "It must be false with a constraint, where nothing may follow the end.")
    if request.stop.min_output_tokens > 0:
        raise InvalidRequest("stop.min_output_tokens", "It must be 0 with a constraint, which alone says what may end.")
    if constraint is not None:
        own = (constraint.after_token_id, constraint.opening_token_id)
        _check_token_ids("constraint", (token_id for token_id in own if token_id is not None), card)


def _check_token_ids(field: str, token_ids: Iterable[int], card: ModelCard) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < card.vocabulary_tokens:
            raise InvalidRequest(
                field, f"Token {token_id} is not in the vocabulary of {card.vocabulary_tokens} tokens."
            )


def _check_stop(stop: StopParams, given_output_tokens: int) -> None:
    if stop.max_output_tokens < 1:
        raise InvalidRequest("stop.max_output_tokens", f"It is {stop.max_output_tokens}; it must be at least 1.")
    if not 0 <= stop.min_output_tokens <= stop.max_output_tokens:
        raise InvalidRequest(
            "stop.min_output_tokens", f"It is {stop.min_output_tokens}; it must be 0 to {stop.max_output_tokens}."
        )
    if given_output_tokens >= stop.max_output_tokens:
        raise InvalidRequest(
            "resume.output_token_ids",
            f"There are {given_output_tokens} tokens; there must be fewer than max_output_tokens, "
            f"{stop.max_output_tokens}.",
        )


def _check_sampling(sampling: SamplingParams) -> None:
    _check_range("temperature", sampling.temperature, 0, 10)
    _check_range("presence_penalty", sampling.presence_penalty, -2, 2)
    _check_range("frequency_penalty", sampling.frequency_penalty, -2, 2)
    _check_range("min_p", sampling.min_p, 0, 1)
    _check_range("seed", sampling.seed, 0, _MAX_SEED)
    if sampling.top_k < 0:
        raise InvalidRequest("sampling.top_k", f"It is {sampling.top_k}; it must be at least 0.")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequest("sampling.top_p", f"It is {sampling.top_p}; it must be above 0 and at most 1.")
    if not 0 < sampling.repetition_penalty <= 10:  # noqa: PLR2004 - the range in the field's definition
        raise InvalidRequest(
            "sampling.repetition_penalty",
            f"It is {sampling.repetition_penalty}; it must be above 0 and at most 10.",
        )


def _check_logit_bias(biases: tuple[tuple[int, float], ...], card: ModelCard) -> None:
    if len(biases) > MAX_LOGIT_BIASES:
        raise InvalidRequest(
            "sampling.logit_bias", f"There are {len(biases)}; there must be at most {MAX_LOGIT_BIASES}."
        )
    seen = set[int]()
    for index, (token_id, bias) in enumerate(biases):
        field = f"sampling.logit_bias[{index}]"
        _check_token_ids(f"{field}.token_id", (token_id,), card)
        if token_id in seen:
            raise InvalidRequest(f"{field}.token_id", f"Token {token_id} is there before; each must be there once.")
        seen.add(token_id)
        _check_range(f"logit_bias[{index}].bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def _check_range(name: str, value: float, least: int, most: int) -> None:
    # NaN is in no range.
    if not least <= value <= most:
        raise InvalidRequest(f"sampling.{name}", f"It is {value}; it must be {least} to {most}.")
