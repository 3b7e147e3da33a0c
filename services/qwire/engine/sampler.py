"""Draws the next token of each sequence from its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.adjustment import adjust
from qwire.engine.chunk import TokenLogprobs
from qwire.engine.draws import Draws
from qwire.engine.logprobs import LogprobReader
from qwire.engine.masking import mask
from qwire.engine.ranking import most_likely, rank
from qwire.engine.request import SamplingParams
from qwire.engine.sequence import Sequence

_PLACES = 256
"""The most likely tokens that a draw without top-k looks at first: nearly always enough for top-p and min-p, and to
rule nearly all other tokens out where neither is set."""
_MORE_PLACES = 4096
"""What it looks at where these were not enough, row by row; beyond, a sort of the whole vocabulary is no slower."""


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """The next token of a sequence, with its log-probabilities where the request asks for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


def draw(logits: Tensor, sequences: list[Sequence]) -> list[DrawnToken | None]:
    """Draw one token per row, as `sample`, and say how likely it was to the rows that ask."""
    reader = LogprobReader(logits, sequences)
    token_ids = sample(logits, sequences)
    return [
        None if token_id is None else DrawnToken(token_id, logprobs)
        for token_id, logprobs in zip(token_ids, reader.read(token_ids), strict=True)
    ]


def sample(logits: Tensor, sequences: list[Sequence]) -> list[int | None]:
    """Draw one token per row, as a function of the row, its parameters, its seed and its output position only.

    Args:
        logits: `[rows, vocabulary]`, float32; changed in place.
        sequences: Whose rows they are.

    Returns:
        The tokens; None for each row that is not finite, or whose constraint could not be followed.
    """
    # The sum is NaN or infinite if and only if a logit is: finite logits are far from float32's bound. It is one
    # pass without a mask of the vocabulary's size.
    finite: list[bool] = logits.sum(dim=-1).isfinite().tolist()
    adjust(logits, sequences)
    mask(logits, sequences)  # last, so that nothing makes up for it
    tokens: list[int | None] = [None] * len(sequences)
    live = [row for row, is_finite in enumerate(finite) if is_finite and not _failed(sequences[row])]
    sampled = [row for row in live if sequences[row].request.sampling.temperature > 0]
    if len(sampled) < len(live):
        likeliest: list[int] = most_likely(logits).tolist()
        for row in live:
            tokens[row] = likeliest[row]
    if sampled:
        drawn = _draw(logits, sampled, [sequences[row] for row in sampled])
        for row, token in zip(sampled, drawn, strict=True):
            tokens[row] = token
    return tokens


def _draw(logits: Tensor, rows: list[int], sequences: list[Sequence]) -> list[int]:
    """Draw by temperature, top-k, top-p and min-p: from the most likely tokens, from all where these are not enough.

    Args:
        logits: All rows.
        rows: Those to draw from.
        sequences: Whose they are.
    """
    vocabulary = logits.shape[-1]
    places = min(vocabulary, max(_places(sequence.request.sampling, vocabulary) for sequence in sequences))
    own = logits if len(rows) == len(logits) else logits[torch.tensor(rows, device=logits.device)]
    ranking = rank(own, places)
    draws = Draws.of(own, ranking.logits[:, 0], sequences)
    choice = draws.choose(ranking)
    drawn: list[int] = choice.token_ids.tolist()
    for index in (~choice.settled).nonzero()[:, 0].tolist():
        sampling = sequences[index].request.sampling
        if sampling.top_p < 1 or 0 < sampling.top_k < vocabulary:
            drawn[index] = _draw_from_more(own[index : index + 1], sequences[index])
        else:
            drawn[index] = draws.choose_from_all(own[index], index, ranking, choice)
    return drawn


def _draw_from_more(row: Tensor, sequence: Sequence) -> int:
    """Draw from more of a row's most likely tokens, and from all where these are not enough either."""
    vocabulary = row.shape[-1]
    ranking = rank(row, min(_MORE_PLACES, vocabulary))
    draws = Draws.of(row, ranking.logits[:, 0], [sequence])
    choice = draws.choose(ranking)
    if not choice.settled:
        choice = draws.choose(rank(row, vocabulary))
    return int(choice.token_ids)


def _failed(sequence: Sequence) -> bool:
    return sequence.matcher is not None and sequence.matcher.failure is not None


def _places(sampling: SamplingParams, vocabulary: int) -> int:
    if 0 < sampling.top_k < vocabulary:
        return min(sampling.top_k + 1, _PLACES)  # one more, to see that the last one is no tie
    return _PLACES
