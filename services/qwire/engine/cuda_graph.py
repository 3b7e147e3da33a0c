"""Records what a function launches on a CUDA device, to launch it again without the function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded.

    Attributes:
        replay: Does it again, on what is now in the memory that it read.
        output: Where the result is after each time.
    """

    replay: Callable[[], None]
    output: Tensor


class CudaRecorder:
    """Records functions as CUDA graphs that share their memory, so one's output is overwritten by the next replay.

    Args:
        device: Where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> Recording:
        """Record a function that reads and writes only memory that stays, and waits for nothing.

        Raises:
            RuntimeError: It does something that cannot be recorded.
        """
        with torch.cuda.device(self._device):
            # Libraries take their workspaces at the first call, which must not be while recording.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                function()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may ask for the device's memory meanwhile; by default that would spoil the recording.
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                output = function()
        return Recording(graph.replay, output)
