"""How the matrices of a decoder are held and multiplied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from qwire.engine.paged_attention import PagedAttention

Product = Callable[[Tensor], Tensor]
"""Multiplies rows `[tokens, columns]` with a matrix that it knows: `[tokens, rows]`."""


def product_by_torch(weight: Tensor) -> Product:
    """Return the product with a matrix `[rows, columns]` as torch computes it, wherever it is."""
    return partial(linear, weight=weight)


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm on the way into a product.

    Attributes:
        weight: `[columns]`, float32.
        epsilon: Added to the mean square.
    """

    weight: Tensor
    epsilon: float

    def of(self, x: Tensor) -> Tensor:
        """Return `x` `[tokens, columns]`, normalized."""
        return rms_norm(x, self.weight.shape, self.weight, self.epsilon)


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorms of single heads, as Qwen3 has them.

    Attributes:
        weights: `[2, size]`, float32: of query heads, of key heads.
        query_heads: The first so many heads are queries.
        epsilon: Added to the mean square.
    """

    weights: Tensor
    query_heads: int
    epsilon: float


class Matrix(Protocol):
    """A linear layer's weight `[rows, columns]` and bias `[rows]`. All tensors are float32 with contiguous rows."""

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Return `x @ weight.T + bias` `[tokens, rows]`, of `x` `[tokens, columns]` normalized first with a norm."""
        ...

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add `x @ weight.T + bias` to `residual` `[tokens, rows]`."""
        ...

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        """Add the product of `silu(gate) * up` to `residual`; `gate_up` is `[tokens, 2 * columns]`, the gate first."""
        ...


def gated(gate_up: Tensor) -> Tensor:
    """Return `silu(gate) * up` of `gate_up` `[tokens, 2 * columns]`, the gate first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate).mul_(up)


class Embedding(Protocol):
    """A row of numbers for each token."""

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """Return the tokens' rows as they are held, `[token_ids, columns]`, float32."""
        ...

    def as_matrix(self) -> Matrix:
        """Return the same weights for products: the head of a model that ties it to its embedding."""
        ...


class Router(Protocol):
    """Rates the experts of a layer.

    It is held and multiplied in float32 by every arithmetic: it is a thousandth of what it routes to, and where two
    experts are nearly as good, rounding would not change an output a little but send the token elsewhere.
    """

    def logits(self, x: Tensor, norm: Norm) -> Tensor:
        """Return `[tokens, experts]`, of `x` `[tokens, columns]` normalized first."""
        ...


class Arithmetic(Protocol):
    """One way to hold and multiply."""

    @property
    def attention(self) -> PagedAttention | None:
        """Attends for tokens; None = torch does."""
        ...

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Matrix:
        """Take a linear layer's weight `[rows, columns]` and bias `[rows]`, float32."""
        ...

    def embed(self, weight: Tensor) -> Embedding:
        """Take an embedding `[tokens, columns]`, float32."""
        ...

    def exact(self, weight: Tensor) -> Product:
        """Take a matrix that keeps its numbers however the others are held, float32: one of an adapter."""
        ...

    def route(self, weight: Tensor) -> Router:
        """Take a router's weight `[experts, columns]`, float32."""
        ...

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> None:
        """Turn heads by their positions, in place.

        Args:
            heads: `[tokens, heads, size]`, float32, the heads of a token contiguous.
            cos: `[tokens, size / 2]`.
            sin: As `cos`.
            norms: RMSNorms of each head before that; None = none.
        """
        ...
