"""Records what a function launches on a CUDA device, to launch it again without the function."""

from __future__ import annotations

import warnings
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
        # One for all: torch's own is of whichever device was the first, and libraries take a workspace for each.
        self._stream = torch.cuda.Stream(device)

    def __call__(self, function: Callable[[], Tensor]) -> Recording:
        """Record a function that reads and writes only memory that stays, and waits for nothing.

        Raises:
            RuntimeError: It waits for the device, or does something else that cannot be recorded.
        """
        with torch.cuda.device(self._device):
            self._try_out(function)
            graph = torch.cuda.CUDAGraph()
            # Other threads may ask for the device's memory meanwhile; by default that would spoil the recording.
            with torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local"):
                output = function()
        return Recording(graph.replay, output)

    def _try_out(self, function: Callable[[], Tensor]) -> None:
        """Call it, for what libraries do at a first call, and again to see whether it waits for the device.

        To find that out while recording would leave torch's allocator in the middle of it for good. Torch is to warn
        and no more, as it does so whichever thread of the process waits: an engine beside this one must not fail by it.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        before = torch.cuda.get_sync_debug_mode()
        try:
            with torch.cuda.stream(self._stream), warnings.catch_warnings(record=True) as caught:
                function()
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
            torch.cuda.current_stream().wait_stream(self._stream)
        waits = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
        if waits:
            raise RuntimeError(waits[0])
