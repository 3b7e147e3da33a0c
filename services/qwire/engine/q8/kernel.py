"""Quantized matrices and their products, by the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from qwire.engine.q8.arithmetic import KernelArithmetic
from qwire.engine.q8.library import InputArgument, Library, WeightArgument
from qwire.engine.q8.matrix import KernelMatrix

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


class Q8Matrix(KernelMatrix):
    """See `KernelMatrix`. The layout of the values is written in `tile.h`.

    Attributes:
        nbytes: Memory that the weight takes.
    """

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        blocks, groups = -(-self.rows // BLOCK), -(-self.columns // GROUP)
        self.values = torch.empty(blocks, groups, GROUP // 4, BLOCK, 4, dtype=torch.uint8)
        self.scales = torch.empty(blocks, groups, BLOCK, dtype=torch.float16)
        self.nbytes = self.values.nbytes + self.scales.nbytes
        self._library = library
        self._weight = WeightArgument(
            *(self.rows, self.columns, self.values.data_ptr(), self.scales.data_ptr()),
            None if self.bias is None else self.bias.data_ptr(),
        )
        library.pack(weight.data_ptr(), self._weight)

    @override
    def _multiply(self, source: InputArgument, out: Tensor, *, add: bool) -> None:
        self._library.linear(self._weight, source, out.data_ptr(), out.stride(0), add)

    @override
    def _copy_rows(self, numbers: Tensor, out: Tensor) -> None:
        self._library.rows(self._weight, numbers.data_ptr(), len(numbers), out.data_ptr())
