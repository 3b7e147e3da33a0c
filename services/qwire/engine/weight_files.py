"""The weights of a checkpoint folder, read one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from qwire.engine.checkpoint_config import UnsupportedCheckpoint
from qwire.engine.resident import release_mapped


class WeightFiles:
    """Reads tensors by name and looks at each: what is loaded later may be quantized or reordered.

    Args:
        folder: Holds `*.safetensors`.

    Attributes:
        parameters: Weights read so far.
        non_finite: Those of them that are NaN or infinite.
    """

    def __init__(self, folder: Path) -> None:
        self.parameters = 0
        self.non_finite = 0
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, int]:
        """Return rows and columns of a matrix that is there."""
        rows, columns = self._files[name].get_slice(name).get_shape()
        return rows, columns

    def read(self, name: str) -> Tensor:
        """Return a tensor as float32.

        Raises:
            UnsupportedCheckpoint: There is none of this name.
        """
        if name not in self._files:
            raise UnsupportedCheckpoint(f"the weight files have no tensor {name!r}")
        # A copy: what the file is mapped to would change with it.
        mapped: Tensor = self._files[name].get_tensor(name)
        tensor = mapped.to(torch.float32, copy=True)
        release_mapped(mapped)
        self.parameters += tensor.numel()
        # A finite sum proves finite weights in one pass without a mask.
        if not tensor.sum().isfinite():
            self.non_finite += int(tensor.isfinite().logical_not().sum())
        return tensor

    def read_all(self) -> None:
        """Look at every tensor, and keep none."""
        for name in self._files:
            self.read(name)
