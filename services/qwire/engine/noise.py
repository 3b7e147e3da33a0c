"""Gumbel noise as a pure function of seed, output position and token id.

Drawing a token is `argmax(log p + noise)`: it needs no generator state, so a sampled token is the same alone, in any
batch, and after any resume. Noise for some tokens equals the same tokens' noise among all.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK_32 = 0xFFFF_FFFF
_MASK_64 = 0xFFFF_FFFF_FFFF_FFFF


def gumbel_noise(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """Return standard Gumbel noise, one float64 per token id.

    Args:
        seed: 0 <= seed < 2**64.
        position: The place in the output, from 0.
        token_ids: int64, any shape.
    """
    key = _mix_64(_mix_64(seed) ^ position)
    bits = _mix_32(_mix_32(token_ids ^ (key & _MASK_32)) ^ (key >> 32))
    uniform = (bits.to(torch.float64) + 0.5) / 2.0**32
    return -(-uniform.log()).log()


def _mix_64(value: int) -> int:
    """Finalizer of splitmix64 (Steele, Lea, Flood 2014) after one step of its counter."""
    value = (value + 0x9E37_79B9_7F4A_7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK_64
    return value ^ (value >> 31)


def _mix_32(bits: Tensor) -> Tensor:
    """Finalizer of MurmurHash3 on 32 bits held in int64: products overflow, but their lower 32 bits are exact."""
    bits = (bits ^ (bits >> 16)) * 0x85EB_CA6B & _MASK_32
    bits = (bits ^ (bits >> 13)) * 0xC2B2_AE35 & _MASK_32
    return bits ^ (bits >> 16)
