"""What the kernel does in float32, by torch alone, for machines without a compiler."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm

from qwire.engine.arithmetic import HeadNorms, Norm, Product, gated, product_by_torch


class ExactArithmetic:
    """Stands for `Float32Arithmetic`; matrices lie in the order that oneDNN reads them.

    Args:
        tokens: Tokens of a large step; oneDNN chooses the order for about so many.
    """

    attention = None

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> ExactMatrix:
        """See `Arithmetic.pack`."""
        return ExactMatrix(weight, bias, self._tokens)

    def embed(self, weight: Tensor) -> ExactEmbedding:
        """See `Arithmetic.embed`."""
        return ExactEmbedding(weight, self._tokens)

    def exact(self, weight: Tensor) -> Product:
        """See `Arithmetic.exact`."""
        return product_by_torch(weight)

    def route(self, weight: Tensor) -> ExactRouter:
        """See `Arithmetic.route`."""
        return ExactRouter(weight)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
        """See `Arithmetic.rotate`."""
        rotate(heads, cos, sin, norms)


class ExactMatrix:
    """See `Matrix`. Where torch has oneDNN, the weight is reordered once instead of at every product."""

    def __init__(self, weight: Tensor, bias: Tensor | None, tokens: int) -> None:
        self._packed = can_pack()
        # torch has no public names for the two operators.
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, tokens) if self._packed else weight  # noqa: SLF001
        self._bias = bias

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """See `Matrix.of`."""
        if norm is not None:
            x = norm.of(x)
        if self._packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")  # noqa: SLF001
        return linear(x, self._weight, self._bias)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """See `Matrix.add_to`."""
        residual += self.of(x)

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """See `Matrix.add_gated_to`."""
        residual += self.of(gated(gate_up))


class ExactEmbedding:
    """See `Embedding`."""

    def __init__(self, weight: Tensor, tokens: int) -> None:
        self._weight = weight
        self._tokens = tokens

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """See `Embedding.rows_of`."""
        return self._weight[token_ids]

    def as_matrix(self) -> ExactMatrix:
        """See `Embedding.as_matrix`."""
        return ExactMatrix(self._weight, None, self._tokens)


class ExactRouter:
    """See `Router`."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def logits(self, x: Tensor, norm: Norm) -> Tensor:
        """See `Router.logits`."""
        return linear(rms_norm(x, norm.weight.shape, norm.weight, norm.epsilon), self._weight)


def can_pack() -> bool:
    """Say whether this build of torch has oneDNN's packed linear."""
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
    """See `Arithmetic.rotate`."""
    if norms is not None:
        parts = heads[:, : norms.query_heads], heads[:, norms.query_heads :]
        for part, weight in zip(parts, norms.weights, strict=True):
            part.copy_(rms_norm(part, weight.shape, weight, norms.epsilon))
    low, high = heads.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    heads.copy_(torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1))
