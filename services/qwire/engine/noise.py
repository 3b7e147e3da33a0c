"""Gumbel noise as a pure function of seed, output position and token id.

Drawing a token is `argmax(log p + noise)`: it needs no generator state, so a sampled token is the same alone, in any
batch, and after any resume. Noise for some tokens equals the same tokens' noise among all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwire.engine.serial import log, serial_tokens

_MASK_32 = 0xFFFF_FFFF
_MASK_64 = 0xFFFF_FFFF_FFFF_FFFF


def gumbel_noise(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """Return standard Gumbel noise, one float64 per token id.

    Args:
        seed: 0 <= seed < 2**64.
        position: The place in the output, from 0.
        token_ids: int64, any shape.
    """
    return keyed_noise(torch.tensor(noise_key(seed, position), device=token_ids.device), token_ids)


def noise_key(seed: int, position: int) -> tuple[int, int]:
    """Return what `keyed_noise` needs of a seed and a position: two numbers of 32 bits."""
    key = _mix_64(_mix_64(seed) ^ position)
    return key & _MASK_32, key >> 32


def keyed_noise(keys: Tensor, token_ids: Tensor) -> Tensor:
    """Return the noise of many keys at once.

    Args:
        keys: int64, `[..., 2]`, from `noise_key`; the leading dimensions are those of `token_ids`, from the left.
        token_ids: int64, any shape.
    """
    low, high = keys.reshape(*keys.shape, *[1] * (token_ids.dim() - keys.dim() + 1)).unbind(keys.dim() - 1)
    bits = _mix_32(_mix_32(token_ids ^ low) ^ high)
    uniform = (bits.to(torch.float64) + 0.5) / 2.0**32
    return -log(-log(uniform))


def loud_token_ids(key: Tensor, vocabulary: int, least: float) -> Tensor:
    """Return every token id whose noise is at least `least`, and perhaps a few whose noise is a millionth less.

    Six times faster than the noise of a whole vocabulary: 32 bits are hashed as such, and need no logarithm to be
    compared.

    Args:
        key: int64, `[2]`, from `noise_key`.
        vocabulary: Token ids are below it.
        least: Any number.
    """
    low, high = (_signed(int(part)) for part in key.tolist())
    threshold = math.floor(math.exp(-math.exp(1e-6 - max(least, -4.0))) * 2.0**32) - 1
    every = torch.arange(vocabulary, dtype=torch.int32, device=key.device)
    loud: list[Tensor] = []
    for token_ids in every.split(serial_tokens(every)):
        bits = _mix_32_in_place(_mix_32_in_place(token_ids ^ low).bitwise_xor_(high))
        # The order of unsigned numbers is that of signed ones whose uppermost bit is turned.
        bits.bitwise_xor_(_signed(1 << 31))
        loud.append(token_ids[bits >= max(0, threshold) - (1 << 31)])
    return torch.cat(loud).long()


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


def _mix_32_in_place(bits: Tensor) -> Tensor:
    """`_mix_32` of bits held in int32, whose products wrap and whose shifts drag the sign along."""
    bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF)).mul_(_signed(0x85EB_CA6B))
    bits.bitwise_xor_((bits >> 13).bitwise_and_(0x7_FFFF)).mul_(_signed(0xC2B2_AE35))
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))


def _signed(value: int) -> int:
    """Return the number that has these 32 bits in int32."""
    return value - (1 << 32) if value >> 31 else value
