"""What the kernel does, by torch alone, for machines without a compiler: slow, as weights are dequantized each time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, rms_norm, silu

from qwire.engine.q8.kernel import GROUP, HeadNorms, Norm


class FallbackKernel:
    """Stands for `Kernel`."""

    def pack(self, matrix: Tensor, bias: Tensor | None = None) -> FallbackWeight:
        """Quantize a matrix `[rows, columns]`, float32."""
        return FallbackWeight(matrix, bias)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
        """Turn heads by their positions, in place; see `Kernel.rotate`."""
        if norms is not None:
            for part, weight in zip(_split(heads, norms.query_heads), norms.weights, strict=True):
                part.copy_(rms_norm(part, weight.shape, weight, norms.epsilon))
        low, high = heads.chunk(2, dim=-1)
        cos, sin = cos[:, None], sin[:, None]
        heads.copy_(torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1))


def _split(heads: Tensor, query_heads: int) -> tuple[Tensor, Tensor]:
    return heads[:, :query_heads], heads[:, query_heads:]


class FallbackWeight:
    """Stands for `PackedWeight`; the quantized values are the same.

    Args:
        matrix: `[rows, columns]`, float32.
        bias: `[rows]`, float32; None = none.
    """

    def __init__(self, matrix: Tensor, bias: Tensor | None) -> None:
        self.rows, self.columns = matrix.shape
        groups = pad(matrix, (0, -self.columns % GROUP)).view(self.rows, -1, GROUP)
        # A NaN or an infinity makes the scale NaN, and with it every product.
        most = groups.abs().amax(-1) / 127.0 + (groups * 0.0).sum(-1)
        self.scales = most.half()
        scales = self.scales.float()
        inverse = torch.where(scales > 0, 1 / scales, 0.0)
        self.values = (groups * inverse[..., None]).round().clamp(-127, 127).nan_to_num().to(torch.int8)
        self.bias = bias

    def rows_of(self, indices: Tensor) -> Tensor:
        """Return rows of the matrix as they are after quantization; see `PackedWeight.rows_of`."""
        values = self.values[indices].float() * self.scales[indices].float()[..., None]
        return values.flatten(1)[:, : self.columns]

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Return `x @ weight.T + bias`; see `PackedWeight.of`."""
        if norm is not None:
            x = rms_norm(x, norm.weight.shape, norm.weight, norm.epsilon)
        matrix = (self.values.float() * self.scales.float()[..., None]).flatten(1)[:, : self.columns]
        return linear(x, matrix, self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add `x @ weight.T + bias` to `residual`."""
        residual += self.of(x)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """Add the product of `silu(gate) * up` to `residual`; see `PackedWeight.add_gated_to`."""
        gate, up = gate_up.chunk(2, dim=-1)
        residual += self.of(silu(gate) * up)
