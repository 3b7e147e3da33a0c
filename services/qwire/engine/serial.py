"""Arithmetic that torch does not share among threads.

On a busy machine, a step that waits for another thread waits for the scheduler: several milliseconds, for microseconds
of work. torch shares what is done element by element from 32,768 elements on, but logarithms and exponentials from
2,048 on, as it leaves them to a library; those here are its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PIECE_TOKENS = 1 << 14


def exp(values: Tensor) -> Tensor:
    """Return e to the power of each value, float64."""
    return (values * math.log2(math.e)).exp2()


def log(values: Tensor) -> Tensor:
    """Return the natural logarithm of each value, float64; five times slower than torch's own: for few values."""
    return torch.xlogy(torch.ones((), dtype=values.dtype, device=values.device), values)


def serial_tokens(row: Tensor) -> int:
    """Return in how large pieces to work on a row of the vocabulary; on a GPU, in one."""
    return _PIECE_TOKENS if row.device.type == "cpu" else len(row)


def sum_of_exp(row: Tensor, largest: float, temperature: float = 1.0) -> float:
    """Return the sum of e to the power of (value - largest) / temperature over a row of the vocabulary, in float64.

    Row by row, as a sum over several rows at once may add up in another order.
    """
    return sum(
        exp(piece.double().div_(temperature).sub_(largest / temperature)).sum().item()
        for piece in row.split(serial_tokens(row))
    )
