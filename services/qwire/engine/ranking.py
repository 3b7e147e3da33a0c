"""The most likely tokens of each row, exactly, without sorting the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 64
"""Tokens whose maximum is looked at first: one pass that vectorises finds the few blocks worth a closer look."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The beginning of each row's order: most likely first, of equally likely tokens the one with the lowest id.

    In main memory, so that what is drawn from it is the same on every device.

    Attributes:
        logits: `[rows, places]`, float32, descending.
        token_ids: `[rows, places]`, int64.
        certain: `[rows]`: how many leading places hold the right token ids. Behind them are tokens as likely as the
            last one, of which others may have been left out; all the logits are right.
    """

    logits: Tensor
    token_ids: Tensor
    certain: Tensor


def rank(logits: Tensor, places: int) -> Ranking:
    """Rank the most likely tokens of finite rows.

    Args:
        logits: `[rows, vocabulary]`, float32.
        places: How many; at most the vocabulary, which makes every place certain.
    """
    if places == logits.shape[-1]:
        best, token_ids = logits.sort(descending=True, stable=True)
        return Ranking(best.cpu(), token_ids.cpu(), torch.full((len(best),), places))
    best, token_ids = (part.cpu() for part in _top(logits, places))
    if (best[:, 1:] == best[:, :-1]).any():  # topk leaves the order of equals open
        token_ids, order = token_ids.sort(dim=-1)
        best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        token_ids = token_ids.gather(-1, order)
    return Ranking(best, token_ids, (best > best[:, -1:]).sum(dim=-1))


def most_likely(logits: Tensor) -> Tensor:
    """Return each row's most likely token, the lowest id of several; ten times faster than `argmax` on a CPU."""
    if logits.shape[-1] % _BLOCK:
        return logits.argmax(dim=-1)
    blocks = logits.unflatten(-1, (-1, _BLOCK))
    block = blocks.amax(dim=-1).argmax(dim=-1)
    place = blocks[torch.arange(len(blocks), device=blocks.device), block].argmax(dim=-1)
    return block * _BLOCK + place


def _top(logits: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Return what `topk` returns, from the blocks with the largest maxima.

    Each of these blocks has a logit that is at least as large as any outside them. So there are as many as places, and
    what is left out is no larger than the last place.
    """
    vocabulary = logits.shape[-1]
    if vocabulary % _BLOCK or places * _BLOCK > vocabulary:
        return logits.topk(places)
    blocks = logits.unflatten(-1, (-1, _BLOCK))
    chosen = blocks.amax(dim=-1).topk(places, sorted=False).indices
    near = blocks.gather(1, chosen[..., None].expand(-1, -1, _BLOCK)).flatten(1)
    best, index = near.topk(places)
    return best, chosen.gather(1, index // _BLOCK) * _BLOCK + index % _BLOCK
