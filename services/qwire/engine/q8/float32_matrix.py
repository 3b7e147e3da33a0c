"""A matrix in float32 and its products, by the compiled kernel."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor

from qwire.engine.arithmetic import Norm
from qwire.engine.q8.library import GATED, NORMED, PLAIN, FloatWeightArgument, InputArgument, Library


class Float32Matrix:
    """See `Matrix` and `Embedding`. The layout of the values is written in `form.h`.

    Attributes:
        nbytes: Memory that the weight takes.
    """

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None) -> None:
        self.rows, self.columns = weight.shape
        self.bias = None if bias is None else bias.contiguous()
        self._library = library
        for form in count():
            self.nbytes: int = library.float32_bytes(form, self.rows, self.columns)
            self._values = torch.empty(self.nbytes, dtype=torch.uint8)
            self._weight = FloatWeightArgument(
                *(self.rows, self.columns, form, self._values.data_ptr()),
                None if self.bias is None else self.bias.data_ptr(),
            )
            if library.float32_pack(weight.data_ptr(), self._weight):
                break  # at the latest in four bytes each

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """See `Matrix.of`."""
        out = torch.empty(x.shape[0], self.rows)
        self._multiply(x, PLAIN if norm is None else NORMED, norm, out, add=False)
        return out

    def as_matrix(self) -> Float32Matrix:
        """See `Embedding.as_matrix`."""
        return self

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """See `Embedding.rows_of`."""
        numbers = token_ids.contiguous()
        out = torch.empty(len(numbers), self.columns)
        self._library.float32_rows(self._weight, numbers.data_ptr(), len(numbers), out.data_ptr())
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
        self._library.float32_linear(self._weight, source, out.data_ptr(), out.stride(0), add)
