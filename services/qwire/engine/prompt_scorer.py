"""Says how likely the tokens of prompts are, for the requests that ask."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from qwire.engine.chunk import TokenLogprobs
from qwire.engine.decoder import Decoder
from qwire.engine.logprobs import token_logprobs
from qwire.engine.scheduler import ScheduledTokens, StepPlan
from qwire.engine.sequence import Sequence

ROWS = 64
"""Rows of logits that are in memory at once: 39 MB with Qwen's vocabulary of 151,936 tokens, where those of a prompt of
4,000 would be 2.4 GB. With fewer, the head's weights would be read more often."""

Scores = Mapping[Sequence, tuple[TokenLogprobs, ...] | None]
"""The next prompt tokens' records of each sequence that is told any; None = its logits were not finite."""


def score(decoder: Decoder, hidden: Tensor, plan: StepPlan) -> Scores:
    """Return what a step tells of prompts.

    Args:
        decoder: The model.
        hidden: The step's hidden states, of all its tokens.
        plan: The step.
    """
    scores: dict[Sequence, tuple[TokenLogprobs, ...] | None] = {}
    first = 0
    for tokens in plan.scheduled:
        if tokens.sequence.unscored(tokens.start, tokens.length):
            scores[tokens.sequence] = _score(decoder, hidden[first : first + tokens.length], tokens)
        first += tokens.rows
    return scores


def _score(decoder: Decoder, hidden: Tensor, tokens: ScheduledTokens) -> tuple[TokenLogprobs, ...] | None:
    """Return the records of the tokens that follow a chunk's rows."""
    request = tokens.sequence.request
    places = tokens.sequence.unscored(tokens.start, tokens.length)
    records: list[TokenLogprobs] = []
    for begin in range(places.start, places.stop, ROWS):
        piece = range(begin, min(begin + ROWS, places.stop))
        logits = decoder.logits(hidden[piece.start - tokens.start : piece.stop - tokens.start])
        if not logits.sum(dim=-1).isfinite().all():
            return None
        for row, place in zip(logits, piece, strict=True):
            records.append(token_logprobs(row, request.prompt_token_ids[place + 1], request.prompt_logprobs or 0))
    return tuple(records)
