"""What the kernel does, by torch alone, for machines without a compiler: slow, as weights are dequantized each time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from qwire.engine.arithmetic import HeadNorms, Norm, gated
from qwire.engine.exact import ExactRouter, rotate
from qwire.engine.q8.kernel import GROUP


class FallbackArithmetic:
    """Stands for `Q8Arithmetic`."""

    attention = None

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> FallbackMatrix:
        """See `Arithmetic.pack`."""
        return FallbackMatrix(weight, bias)

    def embed(self, weight: Tensor) -> FallbackMatrix:
        """See `Arithmetic.embed`."""
        return FallbackMatrix(weight, None)

    def route(self, weight: Tensor) -> ExactRouter:
        """See `Arithmetic.route`."""
        return ExactRouter(weight)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
        """See `Arithmetic.rotate`."""
        rotate(heads, cos, sin, norms)


class FallbackMatrix:
    """Stands for `Q8Matrix`, as a matrix and as an embedding; the quantized values are the same."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.rows, self.columns = weight.shape
        groups = pad(weight, (0, -self.columns % GROUP)).view(self.rows, -1, GROUP)
        # A NaN or an infinity makes the scale NaN, and with it every product.
        most = groups.abs().amax(-1) / 127.0 + (groups * 0.0).sum(-1)
        self.scales = most.half()
        scales = self.scales.float()
        inverse = torch.where(scales > 0, 1 / scales, 0.0)
        self.values = (groups * inverse[..., None]).round().clamp(-127, 127).nan_to_num().to(torch.int8)
        self.bias = bias

    def as_matrix(self) -> FallbackMatrix:
        """See `Embedding.as_matrix`."""
        return self

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """See `Embedding.rows_of`."""
        values = self.values[token_ids].float() * self.scales[token_ids].float()[..., None]
        return values.flatten(1)[:, : self.columns]

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """See `Matrix.of`."""
        if norm is not None:
            x = norm.of(x)
        weight = (self.values.float() * self.scales.float()[..., None]).flatten(1)[:, : self.columns]
        return linear(x, weight, self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """See `Matrix.add_to`."""
        residual += self.of(x)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """See `Matrix.add_gated_to`."""
        residual += self.of(gated(gate_up))
