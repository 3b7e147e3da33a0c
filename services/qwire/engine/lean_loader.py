"""Loads a checkpoint as a lean decoder: each tensor is read, packed and dropped before the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from qwire.engine.arithmetic import Arithmetic, HeadNorms, Matrix, Norm
from qwire.engine.checkpoint_config import CheckpointConfig
from qwire.engine.lean_decoder import LeanDecoder, LeanLayer
from qwire.engine.rotary import RotaryEmbedding
from qwire.engine.weight_files import WeightFiles


def load_lean(folder: Path, facts: CheckpointConfig, files: WeightFiles, arithmetic: Arithmetic) -> LeanDecoder:
    """Load a checked checkpoint.

    Args:
        folder: Holds config.json.
        facts: What it says about the model.
        files: The weights; each is read once.
        arithmetic: How they are held.

    Raises:
        UnsupportedCheckpoint: A tensor is missing.
    """
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    reader = _Reader(files, arithmetic, config.rms_norm_eps, config.num_attention_heads)
    embedding = arithmetic.embed(files.read("model.embed_tokens.weight"))
    layers = tuple(reader.layer(f"model.layers.{index}") for index in range(facts.layers))
    return LeanDecoder(
        arithmetic=arithmetic,
        rotary=RotaryEmbedding(config, facts.head_size),
        heads=config.num_attention_heads,
        kv_heads=facts.kv_heads,
        head_size=facts.head_size,
        embedding=embedding,
        layers=layers,
        norm=reader.norm("model.norm"),
        head=reader.matrix("lm_head") if "lm_head.weight" in files else embedding.as_matrix(),
    )


class _Reader:
    def __init__(self, files: WeightFiles, arithmetic: Arithmetic, epsilon: float, query_heads: int) -> None:
        self._files = files
        self._arithmetic = arithmetic
        self._epsilon = epsilon
        self._query_heads = query_heads

    def layer(self, name: str) -> LeanLayer:
        attention, feed_forward = f"{name}.self_attn", f"{name}.mlp"
        return LeanLayer(
            attention_norm=self.norm(f"{name}.input_layernorm"),
            query_key_value=self.matrix(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            head_norms=self._head_norms(attention),
            attention_output=self.matrix(f"{attention}.o_proj"),
            feed_forward_norm=self.norm(f"{name}.post_attention_layernorm"),
            gate_up=self.matrix(f"{feed_forward}.gate_proj", f"{feed_forward}.up_proj"),
            down=self.matrix(f"{feed_forward}.down_proj"),
        )

    def matrix(self, *names: str) -> Matrix:
        """Read layers of the same input as one, their rows one after the other."""
        weight = torch.cat([self._files.read(f"{name}.weight") for name in names])
        has_bias = f"{names[0]}.bias" in self._files
        bias = torch.cat([self._files.read(f"{name}.bias") for name in names]) if has_bias else None
        return self._arithmetic.pack(weight, bias)

    def norm(self, name: str) -> Norm:
        return Norm(self._files.read(f"{name}.weight"), self._epsilon)

    def _head_norms(self, attention: str) -> HeadNorms | None:
        if f"{attention}.q_norm.weight" not in self._files:
            return None
        weights = [self._files.read(f"{attention}.{name}.weight") for name in ("q_norm", "k_norm")]
        return HeadNorms(torch.stack(weights), self._query_heads, self._epsilon)
