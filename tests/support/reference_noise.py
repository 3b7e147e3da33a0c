"""The documented hash and its Gumbel noise in Python integers, one token at a time."""

from __future__ import annotations

import math

MASK_32, MASK_64 = 2**32 - 1, 2**64 - 1


def reference_noise(seed: int, position: int, token_id: int) -> float:
    def mix_64(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & MASK_64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
        return value ^ (value >> 31)

    def mix_32(bits: int) -> int:
        bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & MASK_32
        bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & MASK_32
        return bits ^ (bits >> 16)

    key = mix_64(mix_64(seed) ^ position)
    bits = mix_32(mix_32(token_id ^ (key & MASK_32)) ^ (key >> 32))
    return -math.log(-math.log((bits + 0.5) / 2**32))
