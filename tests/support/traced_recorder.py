"""Records functions as CUDA graphs are recorded, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from qwire.engine.cuda_graph import Recording


class TracedRecorder:
    """Keeps the operators that a function calls, on which tensors, and every other argument as it was at that time.

    A replay calls them again, on what is then in these tensors; as with a CUDA graph, no Python of the function runs.

    Attributes:
        recorded: Functions so far.
        replays: Calls of `Recording.replay` so far.
    """

    def __init__(self, _device: torch.device | None = None) -> None:
        self.recorded = 0
        self.replays = 0

    def __call__(self, function: Callable[[], Tensor]) -> Recording:
        """Record."""
        traced: Any = make_fx(function)()
        output = function().clone()
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            output.copy_(traced())

        return Recording(replay, output)
