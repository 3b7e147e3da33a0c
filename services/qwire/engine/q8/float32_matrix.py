"""A matrix in float32 and its products, by the compiled kernel."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor
from typing_extensions import override

from qwire.engine.q8.library import FloatWeightArgument, InputArgument, Library
from qwire.engine.q8.matrix import KernelMatrix
from qwire.engine.resident import ask_for_large_pages


class Float32Matrix(KernelMatrix):
    """See `KernelMatrix`. The layout of the values is written in `form.h`.

    Attributes:
        nbytes: Memory that the weight takes.
    """

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None) -> None:
        rows, columns = weight.shape
        super().__init__(rows, columns, bias)
        self._library = library
        for form in count():
            self.nbytes: int = library.float32_bytes(form, self.rows, self.columns)
            self._values = torch.empty(self.nbytes, dtype=torch.uint8)
            ask_for_large_pages(self._values)
            self._weight = FloatWeightArgument(
                *(self.rows, self.columns, form, self._values.data_ptr()),
                None if self.bias is None else self.bias.data_ptr(),
            )
            if library.float32_pack(weight.data_ptr(), self._weight):
                break  # at the latest in four bytes each

    @override
    def _multiply(self, source: InputArgument, out: Tensor, *, add: bool) -> None:
        self._library.float32_linear(self._weight, source, out.data_ptr(), out.stride(0), add)

    @override
    def _copy_rows(self, numbers: Tensor, out: Tensor) -> None:
        self._library.float32_rows(self._weight, numbers.data_ptr(), len(numbers), out.data_ptr())
