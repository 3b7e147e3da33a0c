"""The model of transformers' sides."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM


def load_model(options: dict[str, Any]) -> Any:
    """Load in the type and on the device that the options name, with as many threads as every side has."""
    torch.set_num_threads(options["threads"])
    transformers.logging.disable_progress_bar()
    dtype = getattr(torch, options["dtype"])
    model = AutoModelForCausalLM.from_pretrained(options["folder"], dtype=dtype, local_files_only=True)
    return model.to(options["device"]).eval()


def device_bytes() -> int | None:
    """Return the most memory that torch took of the device."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
