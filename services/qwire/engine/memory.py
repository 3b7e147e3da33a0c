"""Memory of the device that a model runs on."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory at one moment, of the accelerator, or of the machine where there is none.

    Attributes:
        used_bytes: In use, by whomever.
        total_bytes: In all.
    """

    used_bytes: int
    total_bytes: int

    @property
    def free_bytes(self) -> int:
        """What may still be taken."""
        return self.total_bytes - self.used_bytes

    @classmethod
    def of(cls, device: torch.device) -> Memory:
        """Read the memory of a device."""
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            return cls(total - free, total)
        machine = psutil.virtual_memory()
        return cls(machine.total - machine.available, machine.total)
