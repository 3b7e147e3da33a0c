"""What the compiled kernel computes whatever the weights are."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from qwire.engine.arithmetic import HeadNorms, Product
from qwire.engine.q8.attention import KernelAttention
from qwire.engine.q8.float32_matrix import Float32Matrix
from qwire.engine.q8.library import Library
from qwire.engine.q8.router import KernelRouter


class KernelArithmetic:
    """Attention, rotation, routing and exact products of an `Arithmetic`.

    Attributes:
        library: Computes it.
        attention: See `Arithmetic`.

    Args:
        library: As `qwire.engine.q8.build` made it.

    Raises:
        OSError: It cannot be loaded.
    """

    def __init__(self, library: Path) -> None:
        self.library = Library(library)
        self.attention = KernelAttention(self.library)

    def exact(self, weight: Tensor) -> Product:
        """See `Arithmetic.exact`."""
        return Float32Matrix(self.library, weight.contiguous(), None).of

    def route(self, weight: Tensor) -> KernelRouter:
        """See `Arithmetic.route`."""
        return KernelRouter(self.library, weight.contiguous())

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
        """See `Arithmetic.rotate`."""
        tokens, count, size = heads.shape
        self.library.rotate(
            *(heads.data_ptr(), tokens, heads.stride(0), count, norms.query_heads if norms else 0, size),
            *(cos.data_ptr(), sin.data_ptr(), norms.weights.data_ptr() if norms else None),
            norms.epsilon if norms else 0.0,
        )
