"""Every matrix of a model in float32."""

from __future__ import annotations

from torch import Tensor

from qwire.engine.q8.arithmetic import KernelArithmetic
from qwire.engine.q8.float32_matrix import Float32Matrix


class Float32Arithmetic(KernelArithmetic):
    """See `Arithmetic`. A row's products have the same bits in any batch."""

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Float32Matrix:
        """See `Arithmetic.pack`."""
        return Float32Matrix(self.library, weight.contiguous(), bias)

    def embed(self, weight: Tensor) -> Float32Matrix:
        """See `Arithmetic.embed`."""
        return self.pack(weight)
