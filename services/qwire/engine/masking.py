"""Bans the tokens that constraints do not allow."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.sequence import Sequence


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
    # Bits travel to the device, and are spread out there.
    bits = torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8).view(len(rows), -1).to(logits.device)
    places = torch.arange(8, dtype=torch.uint8, device=logits.device)
    for row, own in zip(rows, bits, strict=True):
        banned = (own[:, None] >> places & 1).flatten()[: logits.shape[-1]] == 0
        logits[row].masked_fill_(banned, -torch.inf)
