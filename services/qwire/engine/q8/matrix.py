"""What the kernel's matrices have in common, whatever their numbers are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from qwire.engine.arithmetic import Norm
from qwire.engine.q8.library import GATED, NORMED, PLAIN, InputArgument


class KernelMatrix(ABC):
    """See `Matrix` and `Embedding`.

    Attributes:
        rows: Of the weight.
        columns: Of the weight.
        bias: `[rows]`; None = none.

    Args:
        rows: As above.
        columns: As above.
        bias: As above.
    """

    def __init__(self, rows: int, columns: int, bias: Tensor | None) -> None:
        self.rows, self.columns = rows, columns
        self.bias = None if bias is None else bias.contiguous()

    @abstractmethod
    def _multiply(self, source: InputArgument, out: Tensor, *, add: bool) -> None:
        """Put the product of `source` into `out` `[tokens, rows]`, or add it."""

    @abstractmethod
    def _copy_rows(self, numbers: Tensor, out: Tensor) -> None:
        """Put rows of the weight, by their numbers, into `out` `[numbers, columns]`."""

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """See `Matrix.of`."""
        out = torch.empty(x.shape[0], self.rows)
        self._multiply(_input(x, PLAIN if norm is None else NORMED, norm), out, add=False)
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """See `Matrix.add_to`."""
        self._multiply(_input(x, PLAIN), residual, add=True)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """See `Matrix.add_gated_to`."""
        self._multiply(_input(gate_up, GATED), residual, add=True)

    def as_matrix(self) -> Self:
        """See `Embedding.as_matrix`."""
        return self

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """See `Embedding.rows_of`."""
        out = torch.empty(len(token_ids), self.columns)
        self._copy_rows(token_ids.contiguous(), out)
        return out


def _input(x: Tensor, kind: int, norm: Norm | None = None) -> InputArgument:
    return InputArgument(
        *(x.data_ptr(), x.shape[0], x.stride(0), kind),
        *((None, 0.0) if norm is None else (norm.weight.data_ptr(), norm.epsilon)),
    )
