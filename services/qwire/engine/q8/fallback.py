"""What the kernel does, by torch alone, for machines without a compiler: slow, as weights are dequantized each time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from qwire.engine.arithmetic import HeadNorms, Norm, Product, gated, product_by_torch
from qwire.engine.exact import ExactRouter, rotate
from qwire.engine.q8.kernel import GROUP

MOST = 127.0
"""The largest number that is rounded to."""


class FallbackArithmetic:
    """Stands for `Q8Arithmetic`."""

    attention = None

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> FallbackMatrix:
        """See `Arithmetic.pack`."""
        return FallbackMatrix(weight, bias)

    def embed(self, weight: Tensor) -> FallbackMatrix:
        """See `Arithmetic.embed`."""
        return FallbackMatrix(weight, None)

    def exact(self, weight: Tensor) -> Product:
        """See `Arithmetic.exact`."""
        return product_by_torch(weight)

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
        groups = _transformed_groups(weight)
        self.scales = (_most(groups) / MOST).half()
        scales = self.scales.float()
        inverse = torch.where(scales > 0, 1 / scales, 0.0)
        self.values = (groups * inverse).round().clamp(-MOST, MOST).nan_to_num().to(torch.int8)
        self.bias = bias

    def as_matrix(self) -> FallbackMatrix:
        """See `Embedding.as_matrix`."""
        return self

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """See `Embedding.rows_of`."""
        values = self.values[token_ids].float() * self.scales[token_ids].float()
        return transformed(values).flatten(1)[:, : self.columns]

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """See `Matrix.of`."""
        if norm is not None:
            x = norm.of(x)
        weight = (self.values.float() * self.scales.float()).flatten(1)
        return linear(rounded(x), weight, self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """See `Matrix.add_to`."""
        residual += self.of(x)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """See `Matrix.add_gated_to`."""
        residual += self.of(gated(gate_up))


def rounded(x: Tensor) -> Tensor:
    """Return activations `[tokens, columns]`, transformed and rounded as the kernel does, columns to whole groups."""
    groups = _transformed_groups(x)
    most = _most(groups)
    # Not `MOST / most`, which torch makes a product with the reciprocal, and which may be one bit off.
    inverse = torch.where(most > 0, torch.full_like(most, MOST) / most, 0.0)
    return ((groups * inverse).round() * (most / MOST)).flatten(1)


def transformed(groups: Tensor) -> Tensor:
    """Return groups `[..., GROUP]` as transform.h makes them; done twice, they are what they were."""
    rows = groups.unflatten(-1, (8, 8))
    return _add_and_subtract(_add_and_subtract(rows).mT).flatten(-2) * 0.125


def _add_and_subtract(rows: Tensor) -> Tensor:
    for half in (4, 2, 1):
        first, second = rows.unflatten(-2, (-1, 2, half)).unbind(-3)
        rows = torch.stack((first + second, first - second), dim=-3).flatten(-4, -2)
    return rows


def _transformed_groups(x: Tensor) -> Tensor:
    """Return `[rows, groups, GROUP]`."""
    return transformed(pad(x, (0, -x.shape[1] % GROUP)).unflatten(1, (-1, GROUP)))


def _most(groups: Tensor) -> Tensor:
    """Return the largest magnitudes; a NaN or an infinity makes them NaN, and with them every product."""
    return groups.abs().amax(-1, keepdim=True) + (groups * 0.0).sum(-1, keepdim=True)
