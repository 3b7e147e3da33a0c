"""Rotary position embeddings: the angles of each position."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


class RotaryEmbedding:
    """Cosine and sine of a model's angles.

    Args:
        config: The model's, as transformers reads it.
        head_size: Numbers in a head.
    """

    def __init__(self, config: PretrainedConfig, head_size: int) -> None:
        parameters = config.rope_parameters
        kind = parameters["rope_type"]
        if kind == "default":
            exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
            self._frequencies, self._scaling = 1.0 / parameters["rope_theta"] ** exponents, 1.0
        else:
            self._frequencies, self._scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))

    def of(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, each `[positions, head_size / 2]`, float32."""
        angles = positions.float()[:, None] * self._frequencies
        return angles.cos() * self._scaling, angles.sin() * self._scaling
