"""The router of experts, by the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.arithmetic import Norm
from qwire.engine.q8.library import NORMED, InputArgument, Library


class KernelRouter:
    """See `qwire.engine.arithmetic.Router`. A token's logits are the same bits in any batch.

    Args:
        library: Computes them.
        weight: `[experts, columns]`, float32, contiguous.
    """

    def __init__(self, library: Library, weight: Tensor) -> None:
        self._library = library
        self._weight = weight

    def logits(self, x: Tensor, norm: Norm) -> Tensor:
        """See `Router.logits`."""
        experts, columns = self._weight.shape
        out = torch.empty(x.shape[0], experts)
        source = InputArgument(x.data_ptr(), x.shape[0], x.stride(0), NORMED, norm.weight.data_ptr(), norm.epsilon)
        self._library.route(self._weight.data_ptr(), experts, columns, source, out.data_ptr())
        return out
