"""Quantized matrices and their products, by the compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qwire.engine.q8.library import GATED, NORMED, PLAIN, InputArgument, Library, WeightArgument

GROUP = 32
"""Columns that share a scale."""
BLOCK = 16
"""Rows that are computed together."""


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm on the way into a product.

    Attributes:
        weight: `[columns]`, float32.
        epsilon: Added to the mean square.
    """

    weight: Tensor
    epsilon: float


class Kernel:
    """The functions of one shared library.

    Args:
        library: As `qwire.engine.q8.build` made it.

    Raises:
        OSError: It cannot be loaded.
    """

    def __init__(self, library: Path) -> None:
        self._library = Library(library)

    def pack(self, matrix: Tensor, bias: Tensor | None = None) -> PackedWeight:
        """Quantize a matrix `[rows, columns]`, float32."""
        return PackedWeight(self._library, matrix.contiguous(), bias)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
        """Turn heads by their positions, in place.

        Args:
            heads: `[tokens, heads, size]`, float32, heads contiguous.
            cos: `[tokens, size / 2]`.
            sin: As `cos`.
            norms: RMSNorms of each head before that; None = none.
        """
        tokens, count, size = heads.shape
        self._library.rotate(
            *(heads.data_ptr(), tokens, heads.stride(0), count, norms.query_heads if norms else 0, size),
            *(cos.data_ptr(), sin.data_ptr(), norms.weights.data_ptr() if norms else None),
            norms.epsilon if norms else 0.0,
        )


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorms of single heads, as Qwen3 has them.

    Attributes:
        weights: `[2, size]`: of query heads, of key heads.
        query_heads: The first so many heads are queries.
        epsilon: Added to the mean square.
    """

    weights: Tensor
    query_heads: int
    epsilon: float


class PackedWeight:
    """A quantized weight matrix in the kernel's layout, with its products.

    Args:
        library: Packs and multiplies.
        matrix: `[rows, columns]`, float32, contiguous.
        bias: `[rows]`, float32; None = none.
    """

    def __init__(self, library: Library, matrix: Tensor, bias: Tensor | None) -> None:
        self.rows, self.columns = matrix.shape
        blocks, groups = -(-self.rows // BLOCK), -(-self.columns // GROUP)
        self.values = torch.empty(blocks, groups, GROUP // 2, BLOCK, 2, dtype=torch.int8)
        self.scales = torch.empty(blocks, groups, BLOCK, dtype=torch.float16)
        self.bias = None if bias is None else bias.contiguous()
        self._library = library
        self._weight = WeightArgument(
            *(self.rows, self.columns, self.values.data_ptr(), self.scales.data_ptr()),
            None if self.bias is None else self.bias.data_ptr(),
        )
        library.pack(matrix.data_ptr(), self._weight)

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Return `x @ weight.T + bias`, of `x` normalized first where a norm is given.

        Args:
            x: `[tokens, columns]`, float32, rows contiguous.
            norm: Applied to `x` before the product.
        """
        out = torch.empty(x.shape[0], self.rows)
        self._multiply(x, PLAIN if norm is None else NORMED, norm, out, add=False)
        return out

    def rows_of(self, indices: Tensor) -> Tensor:
        """Return rows of the matrix as they are after quantization, `[indices, columns]`, float32: an embedding."""
        blocks, lanes = indices // BLOCK, indices % BLOCK
        values = self.values[blocks, :, :, lanes].flatten(2).float() * self.scales[blocks, :, lanes].float()[..., None]
        return values.flatten(1)[:, : self.columns].contiguous()

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add `x @ weight.T + bias` to `residual` `[tokens, rows]`."""
        self._multiply(x, PLAIN, None, residual, add=True)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """Add the product of `silu(gate) * up` to `residual`; `gate_up` is `[tokens, 2 * columns]`, the gate first."""
        self._multiply(gate_up, GATED, None, residual, add=True)

    def _multiply(self, x: Tensor, kind: int, norm: Norm | None, out: Tensor, *, add: bool) -> None:
        source = InputArgument(
            *(x.data_ptr(), x.shape[0], x.stride(0), kind),
            *((None, 0.0) if norm is None else (norm.weight.data_ptr(), norm.epsilon)),
        )
        self._library.linear(self._weight, source, out.data_ptr(), out.stride(0), add)
