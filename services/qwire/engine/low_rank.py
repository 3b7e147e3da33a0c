"""Low-rank changes to the products of a step, for the rows of those sequences that have an adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.adapter import Adapter, Projections
from qwire.engine.arithmetic import Product


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a linear layer: `x @ down.T @ up.T`.

    Attributes:
        down: `[rank, columns]`.
        up: `[rows, rank]`, the adapter's scale in it.
    """

    down: Tensor
    up: Tensor

    def product(self, hold: Callable[[Tensor], Product]) -> Product:
        """Return what computes it; `hold` turns each matrix into its product."""
        down, up = hold(self.down), hold(self.up)
        return lambda x: up(down(x))

    @classmethod
    def stacked(cls, parts: Sequence[LowRank | int]) -> LowRank:
        """Return one change for layers of the same input whose rows are stacked.

        Args:
            parts: The change of each, at least one, or how many rows a layer has that is not changed.
        """
        changes = [part for part in parts if isinstance(part, LowRank)]
        if len(parts) == 1:
            return changes[0]
        ups = [part.up if isinstance(part, LowRank) else changes[0].up.new_empty(part, 0) for part in parts]
        return cls(torch.cat([change.down for change in changes]), torch.block_diag(*ups))


class AdapterRows:
    """Which of a step's packed tokens belong to which adapter. What has none is never touched.

    Args:
        segments: The adapter of each sequence, None = none, and how many tokens it has, in the order of the tokens.
        device: Where the model is.
    """

    def __init__(self, segments: Iterable[tuple[Adapter | None, int]], device: torch.device) -> None:
        places: dict[Adapter, list[int]] = {}
        end = 0
        for adapter, length in segments:
            if adapter is not None:
                places.setdefault(adapter, []).extend(range(end, end + length))
            end += length
        self._groups = [(adapter, torch.tensor(rows, device=device)) for adapter, rows in places.items()]

    def add(
        self,
        layer: int,
        product: Projections,
        out: Tensor,
        x: Tensor,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Add what each adapter adds to its rows of a product.

        Args:
            layer: Index of the decoder layer.
            product: Which of its products.
            out: The product, `[tokens, rows]`.
            x: Its input, `[tokens, ...]`.
            prepare: Turns rows of `x` into rows of the linear layer's own input; None = they are that already.
        """
        for adapter, rows in self._groups:
            change: Product | None = adapter.changes.get((layer, product))
            if change is not None:
                own = x[rows]
                out.index_add_(0, rows, change(own if prepare is None else prepare(own)))

    def changed(self) -> set[tuple[int, Projections]]:
        """Return the layers and products that any of the adapters changes."""
        return {place for adapter, _ in self._groups for place in adapter.changes}
