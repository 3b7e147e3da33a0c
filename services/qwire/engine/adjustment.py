"""What changes the logits before the draw: penalties, bias, and tokens that must not be drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.sequence import Sequence


def adjust(logits: Tensor, sequences: list[Sequence]) -> None:
    """Apply repetition, presence and frequency penalties, logit bias and bans, in this order.

    One scatter for all rows of each kind, so that 32 rows cost little more than one.

    Args:
        logits: `[rows, vocabulary]`, float32; changed in place.
        sequences: Whose rows they are.
    """
    _penalize_repetition(logits, sequences)
    _penalize_output(logits, sequences)
    _bias(logits, sequences)
    _ban(logits, sequences)


def _penalize_repetition(logits: Tensor, sequences: list[Sequence]) -> None:
    penalties = [sequence.request.sampling.repetition_penalty for sequence in sequences]
    rows, token_ids = _places(
        [
            torch.frombuffer(sequence.seen, dtype=torch.int64) if penalty != 1.0 else None
            for sequence, penalty in zip(sequences, penalties, strict=True)
        ],
        logits.device,
    )
    if not len(rows):
        return
    scores = logits[rows, token_ids]
    penalty = torch.tensor(penalties, device=logits.device)[rows]
    # A token that occurs twice is written twice, with the same value.
    logits[rows, token_ids] = torch.where(scores > 0, scores / penalty, scores * penalty)


def _penalize_output(logits: Tensor, sequences: list[Sequence]) -> None:
    samplings = [sequence.request.sampling for sequence in sequences]
    rows, token_ids = _places(
        [
            torch.frombuffer(sequence.seen, dtype=torch.int64)[len(sequence.request.prompt_token_ids) :]
            if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
            else None
            for sequence, sampling in zip(sequences, samplings, strict=True)
        ],
        logits.device,
    )
    if not len(rows):
        return
    places, counts = torch.stack((rows, token_ids)).unique(dim=1, return_counts=True)
    rows, token_ids = places
    presence = torch.tensor([sampling.presence_penalty for sampling in samplings], device=logits.device)
    frequency = torch.tensor([sampling.frequency_penalty for sampling in samplings], device=logits.device)
    logits[rows, token_ids] -= presence[rows] + frequency[rows] * counts


def _bias(logits: Tensor, sequences: list[Sequence]) -> None:
    biases = [sequence.request.sampling.logit_bias for sequence in sequences]
    rows, token_ids = _places(
        [torch.tensor([token_id for token_id, _ in pairs]) if pairs else None for pairs in biases], logits.device
    )
    if len(rows):
        logits[rows, token_ids] += torch.tensor([bias for pairs in biases for _, bias in pairs], device=logits.device)


def _ban(logits: Tensor, sequences: list[Sequence]) -> None:
    banned = [sorted(sequence.banned_token_ids) for sequence in sequences]
    rows, token_ids = _places([torch.tensor(ids) if ids else None for ids in banned], logits.device)
    if len(rows):
        logits[rows, token_ids] = -torch.inf


def _places(token_ids: list[Tensor | None], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return row and token id of every given token, on the device of the logits; None = none of that row."""
    given = [(row, ids) for row, ids in enumerate(token_ids) if ids is not None]
    if not given:
        return torch.empty(0), torch.empty(0)
    rows = torch.tensor([row for row, _ in given]).repeat_interleave(torch.tensor([len(ids) for _, ids in given]))
    return rows.to(device), torch.cat([ids for _, ids in given]).to(device)
