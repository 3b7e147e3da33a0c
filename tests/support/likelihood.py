"""How far an output is from the likeliest, for engines whose roundings a reference cannot repeat to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def shortfall(model: Any, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    """Return by how much each output token's logit is below the best one, in standard deviations of its logits."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *output[:-1]]])).logits[0, len(prompt) - 1 :]
    behind = logits.amax(-1) - logits.gather(-1, torch.tensor(output)[:, None])[:, 0]
    return behind / logits.std(-1)
