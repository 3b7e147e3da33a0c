"""Draws the next token of each sequence from its logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwire.engine.noise import gumbel_noise
from qwire.engine.request import SamplingParams
from qwire.engine.sequence import Sequence

_PARTIAL = 256
"""Candidates looked at before everything is sorted: nearly always enough for a nucleus, and 10 times faster."""


def sample(logits: Tensor, sequences: list[Sequence]) -> list[int | None]:
    """Draw one token per row.

    Args:
        logits: `[rows, vocabulary]`, float32; changed in place.
        sequences: Whose rows they are.

    Returns:
        The tokens; None for each row that is not finite.
    """
    # The sum is NaN or infinite if and only if a logit is: finite logits are far from float32's bound. It is one
    # pass without a mask of the vocabulary's size.
    finite = logits.sum(dim=-1).isfinite()
    for row, sequence in zip(logits, sequences, strict=True):
        _penalize(row, sequence)
        banned = sequence.banned_token_ids
        if banned:
            row[torch.tensor(sorted(banned), device=row.device)] = -torch.inf
    drawn = logits.argmax(dim=-1)
    for index, sequence in enumerate(sequences):
        if sequence.request.sampling.temperature > 0:
            drawn[index] = _draw(logits[index], sequence.request.sampling, len(sequence.output_token_ids))
    # One transfer a step, whatever the number of rows.
    tokens = torch.where(finite, drawn, -1).tolist()
    return [None if token < 0 else token for token in tokens]


def _penalize(row: Tensor, sequence: Sequence) -> None:
    sampling = sequence.request.sampling
    output = sequence.output_token_ids
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor((*sequence.request.prompt_token_ids, *output), device=row.device)
        scores = row[seen]
        penalty = sampling.repetition_penalty
        row[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    if output and (sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0):
        tokens, counts = torch.tensor(output, device=row.device).unique(return_counts=True)
        row[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def _draw(row: Tensor, sampling: SamplingParams, position: int) -> Tensor:
    """Draw by temperature, top-k, top-p and min-p, as a function of (row, seed, position) only."""
    scores, token_ids = _candidates(row.double() / sampling.temperature, sampling)
    if sampling.min_p > 0:
        unlikely = scores < scores.max() + math.log(sampling.min_p)
        scores, token_ids = scores[~unlikely], token_ids[~unlikely]
    return token_ids[(scores + gumbel_noise(sampling.seed, position, token_ids)).argmax()]


def _candidates(scores: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """Return scores and ids of what top-k and top-p keep."""
    vocabulary = scores.shape[0]
    if 0 < sampling.top_k < vocabulary:
        scores, token_ids = scores.topk(sampling.top_k)
        log_total = scores.logsumexp(0)
    elif sampling.top_p < 1:
        log_total = scores.logsumexp(0)
        best, token_ids = scores.topk(min(_PARTIAL, vocabulary))
        if (best - log_total).exp().sum() < sampling.top_p:
            best, token_ids = scores.sort(descending=True)
        scores = best
    else:
        return scores, torch.arange(vocabulary, device=scores.device)
    if sampling.top_p < 1:
        probabilities = (scores - log_total).exp()
        # A token goes when those before it have reached p: never the first one, nor any of a row that is not finite.
        beyond = probabilities.cumsum(0) - probabilities >= sampling.top_p
        scores, token_ids = scores[~beyond], token_ids[~beyond]
    return scores, token_ids
