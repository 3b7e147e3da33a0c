"""Linear layers with weights in the order that the CPU's matrix product reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A float32 linear layer whose weight oneDNN has reordered once, instead of at every call; the results are exact.

    Args:
        linear: The layer to replace.
        rows: Tokens in a large step; oneDNN chooses the order for about so many.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)  # noqa: SLF001 - torch has no public name for it
        bias = linear.bias
        self._bias = None if bias is None else bias.detach()  # pyright: ignore[reportUnnecessaryComparison] - torch's annotation leaves out that it may be None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `hidden @ weight.T + bias`."""
        return torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, "none", [], "")  # noqa: SLF001 - as above


def can_pack() -> bool:
    """Say whether this build of torch has oneDNN's packed linear."""
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack_linears(model: nn.Module, rows: int) -> None:
    """Replace each plain float32 linear layer of the model; each original weight is freed unless it is tied."""
    if not can_pack():
        return
    # The list must not hold the layers themselves, or none would be freed before the last one is replaced.
    parents = [module for module in model.modules() if not isinstance(module, nn.Linear)]
    for parent in parents:
        for name, child in list(parent.named_children()):
            # Quantized layers are subclasses and stay as they are.
            if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                setattr(parent, name, PackedLinear(child, rows))
