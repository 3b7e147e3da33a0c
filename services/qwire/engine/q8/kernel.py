"""Quantized matrices and their products, by the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.arithmetic import Norm
from qwire.engine.q8.arithmetic import KernelArithmetic
from qwire.engine.q8.library import GATED, NORMED, PLAIN, InputArgument, Library, WeightArgument

GROUP = 64
"""Columns that share a scale."""
BLOCK = 32
"""Rows that are computed together."""


class Q8Arithmetic(KernelArithmetic):
    """See `Arithmetic`."""

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Q8Matrix:
        """See `Arithmetic.pack`."""
        return Q8Matrix(self.library, weight.contiguous(), bias)

    def embed(self, weight: Tensor) -> Q8Matrix:
        """See `Arithmetic.embed`."""
        return self.pack(weight)


class Q8Matrix:
    """See `Matrix` and `Embedding`. The layout of the values is written in `tile.h`.

    Attributes:
        nbytes: Memory that the weight takes.
    """

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None) -> None:
        self.rows, self.columns = weight.shape
        blocks, groups = -(-self.rows // BLOCK), -(-self.columns // GROUP)
        self.values = torch.empty(blocks, groups, GROUP // 4, BLOCK, 4, dtype=torch.uint8)
        self.scales = torch.empty(blocks, groups, BLOCK, dtype=torch.float16)
        self.nbytes = self.values.nbytes + self.scales.nbytes
        self.bias = None if bias is None else bias.contiguous()
        self._library = library
        self._weight = WeightArgument(
            *(self.rows, self.columns, self.values.data_ptr(), self.scales.data_ptr()),
            None if self.bias is None else self.bias.data_ptr(),
        )
        library.pack(weight.data_ptr(), self._weight)

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """See `Matrix.of`."""
        out = torch.empty(x.shape[0], self.rows)
        self._multiply(x, PLAIN if norm is None else NORMED, norm, out, add=False)
        return out

    def as_matrix(self) -> Q8Matrix:
        """See `Embedding.as_matrix`."""
        return self

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """See `Embedding.rows_of`."""
        numbers = token_ids.contiguous()
        out = torch.empty(len(numbers), self.columns)
        self._library.rows(self._weight, numbers.data_ptr(), len(numbers), out.data_ptr())
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """See `Matrix.add_to`."""
        self._multiply(x, PLAIN, None, residual, add=True)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """See `Matrix.add_gated_to`."""
        self._multiply(gate_up, GATED, None, residual, add=True)

    def _multiply(self, x: Tensor, kind: int, norm: Norm | None, out: Tensor, *, add: bool) -> None:
        source = InputArgument(
            *(x.data_ptr(), x.shape[0], x.stride(0), kind),
            *((None, 0.0) if norm is None else (norm.weight.data_ptr(), norm.epsilon)),
        )
        self._library.linear(self._weight, source, out.data_ptr(), out.stride(0), add)
