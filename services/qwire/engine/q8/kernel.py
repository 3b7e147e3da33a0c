"""Quantized matrices and their products, by the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from qwire.engine.q8.arithmetic import KernelArithmetic
from qwire.engine.q8.library import InputArgument, Library, WeightArgument
from qwire.engine.q8.matrix import KernelMatrix
from qwire.engine.resident import ask_for_large_pages

GROUP = 64
"""Columns that share a scale."""
BLOCK = 32
"""Rows that are computed together."""


class Q8Arithmetic(KernelArithmetic):
    """See `Arithmetic`."""

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Q8Matrix:
        """See `Arithmetic.pack`."""
        rows, columns = weight.shape
        matrix = Q8Matrix(self.library, rows, columns, bias)
        matrix.quantize(weight.contiguous())
        return matrix

    def embed(self, weight: Tensor) -> Q8Matrix:
        """See `Arithmetic.embed`."""
        return self.pack(weight)


class Q8Matrix(KernelMatrix):
    """See `KernelMatrix`. It has no numbers until `quantize` or `copy_from`.

    Attributes:
        values: The quantized numbers; their layout is written in `tile.h`.
        scales: What they are multiplied with, group by group.
        nbytes: Memory that the weight takes.
    """

    def __init__(self, library: Library, rows: int, columns: int, bias: Tensor | None) -> None:
        super().__init__(rows, columns, bias)
        blocks, groups = -(-self.rows // BLOCK), -(-self.columns // GROUP)
        self.values = torch.empty(blocks, groups, GROUP // 4, BLOCK, 4, dtype=torch.uint8)
        self.scales = torch.empty(blocks, groups, BLOCK, dtype=torch.float16)
        ask_for_large_pages(self.values)
        self.nbytes = self.values.nbytes + self.scales.nbytes
        self._library = library
        self._weight = WeightArgument(
            *(self.rows, self.columns, self.values.data_ptr(), self.scales.data_ptr()),
            None if self.bias is None else self.bias.data_ptr(),
        )

    def quantize(self, weight: Tensor) -> None:
        """Take the numbers of a weight `[rows, columns]`, float32, contiguous."""
        self._library.pack(weight.data_ptr(), self._weight)

    def copy_from(self, values: Tensor, scales: Tensor) -> None:
        """Take the numbers of another matrix of the same weight.

        Raises:
            ValueError: They are of another shape.
        """
        if (values.shape, scales.shape) != (self.values.shape, self.scales.shape):
            raise ValueError(f"the values are {[*values.shape]}, not {[*self.values.shape]}")
        self.values.copy_(values)
        self.scales.copy_(scales)

    @override
    def _multiply(self, source: InputArgument, out: Tensor, *, add: bool) -> None:
        self._library.linear(self._weight, source, out.data_ptr(), out.stride(0), add)

    @override
    def _copy_rows(self, numbers: Tensor, out: Tensor) -> None:
        self._library.rows(self._weight, numbers.data_ptr(), len(numbers), out.data_ptr())
