"""What an engine answers: chunks of output token ids, the last one with the reason and the timings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_PROMPT_RECORDS = 256
"""Of one chunk: with 20 alternatives each, they are some 60 kB of a message."""


class FinishReason(Enum):
    """Why a generation ended well."""

    END_OF_TURN = "end_of_turn"
    """The model drew an end-of-sequence token."""
    STOP_TOKEN = "stop_token"  # noqa: S105 - a reason, not a secret
    """One of the request's stop tokens was drawn."""
    LENGTH = "length"
    """`max_output_tokens` was reached."""


@dataclass(frozen=True, slots=True)
class Timings:
    """When a generation passed its stations, nanoseconds since the epoch, by the engine's clock.

    Attributes:
        arrived_unix_ns: It entered the waiting queue.
        scheduled_unix_ns: Its first prefill step began.
        first_token_unix_ns: Its first output token was drawn.
        finished_unix_ns: Its last output token was drawn.
    """

    arrived_unix_ns: int
    scheduled_unix_ns: int
    first_token_unix_ns: int
    finished_unix_ns: int


@dataclass(frozen=True, slots=True)
class Finish:
    """How a generation ended.

    Attributes:
        reason: Why.
        timings: When.
        stop_token_id: The token that ended it, for END_OF_TURN and STOP_TOKEN.
        cached_prompt_tokens: Prompt tokens whose computation was reused.
        drafted_tokens: Output tokens that were guessed, and computed before those in front of them were drawn.
        accepted_tokens: Those of them that were then drawn, so that they took no step of their own.
        preemptions: How often it lost its place or its KV cache to others, and went back to the queue.
    """

    reason: FinishReason
    timings: Timings
    stop_token_id: int | None = None
    cached_prompt_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token and the likeliest tokens at its position were, under the model alone.

    Natural logarithms of the softmax of its logits: before penalties, bias, temperature and everything else that a
    request changes.

    Attributes:
        logprob: Of the token.
        top: The most likely tokens and theirs, most likely first; of equally likely ones the lowest id first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """The output tokens since the last chunk; or before the first of them, what was asked about the prompt.

    Attributes:
        token_ids: The tokens, in order; at least one, but for a chunk with `prompt_logprobs`, which has none.
        finish: How the generation ended, on the last chunk only.
        timings: The stations passed so far, on the first chunk with tokens only, as if finished with it: for a consumer
            that closes the iterator at a stop string, and so never sees `finish`.
        logprobs: One record per token where the request has `top_logprobs`; else empty.
        prompt_logprobs: One record for each of the prompt's next tokens, where the request has `prompt_logprobs`; the
            prompt's first token has None, as nothing is before it. At most `MAX_PROMPT_RECORDS`. All of them come
            before the first output token.
        cached_prompt_tokens: As of `Finish`, with `timings` and for the same reason.
        adapter_sha256: Digest of the adapter's files, with `timings` and with `prompt_logprobs`; empty = it has none.
        drafted_tokens: As of `Finish`, so far, on chunks with tokens; likewise for who closes the iterator.
        accepted_tokens: Likewise.
        preemptions: Likewise.
    """

    token_ids: tuple[int, ...]
    finish: Finish | None = None
    timings: Timings | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    cached_prompt_tokens: int = 0
    adapter_sha256: str = ""
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
