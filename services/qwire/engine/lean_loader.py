"""Loads a checkpoint as a lean decoder: each tensor is read, packed and dropped before the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from qwire.engine.arithmetic import Arithmetic, Embedding, HeadNorms, Matrix, Norm
from qwire.engine.checkpoint_config import CheckpointConfig
from qwire.engine.feed_forward import DenseFeedForward, GatedPair, SparseFeedForward
from qwire.engine.lean_decoder import LeanDecoder, LeanLayer
from qwire.engine.q8.kept import KeptMatrices
from qwire.engine.rotary import RotaryEmbedding
from qwire.engine.weight_files import WeightFiles


def load_lean(
    folder: Path,
    facts: CheckpointConfig,
    files: WeightFiles,
    arithmetic: Arithmetic,
    kept: KeptMatrices | None = None,
) -> LeanDecoder:
    """Load a checked checkpoint.

    Args:
        folder: Holds config.json.
        facts: What it says about the model.
        files: The weights; each is read once.
        arithmetic: How they are held.
        kept: Has them in that form from an earlier start, or keeps them for a later one; None = they are packed here.

    Raises:
        UnsupportedCheckpoint: A tensor is missing.
    """
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    reader = _Reader(files, arithmetic, kept, config)
    embedding = reader.embedding("model.embed_tokens")
    layers = tuple(
        reader.layer(f"model.layers.{index}", sparse=index in facts.sparse_layers) for index in range(facts.layers)
    )
    # Where the files have both, the head is its own, as it is for transformers.
    tied = config.tie_word_embeddings and "lm_head.weight" not in files
    decoder = LeanDecoder(
        arithmetic=arithmetic,
        rotary=RotaryEmbedding(config, facts.head_size),
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        head_size=facts.head_size,
        embedding=embedding,
        layers=layers,
        norm=reader.norm("model.norm"),
        head=embedding.as_matrix() if tied else reader.matrix("lm_head"),
    )
    if kept is not None:
        kept.finish(files)
    return decoder


class _Reader:
    def __init__(self, files: WeightFiles, arithmetic: Arithmetic, kept: KeptMatrices | None, config: Any) -> None:
        self._files = files
        self._arithmetic = arithmetic
        self._kept = kept
        self._config = config

    def layer(self, name: str, *, sparse: bool) -> LeanLayer:
        attention, norm = f"{name}.self_attn", self.norm(f"{name}.post_attention_layernorm")
        read = self._sparse if sparse else self._dense
        return LeanLayer(
            attention_norm=self.norm(f"{name}.input_layernorm"),
            query_key_value=self.matrix(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            head_norms=self._head_norms(attention),
            attention_output=self.matrix(f"{attention}.o_proj"),
            feed_forward=read(f"{name}.mlp", norm),
        )

    def matrix(self, *names: str) -> Matrix:
        """Read layers of the same input as one, their rows one after the other."""
        has_bias = f"{names[0]}.bias" in self._files
        bias = self._joined(names, "bias") if has_bias else None
        if self._kept is not None:
            return self._kept.matrix(names[0], lambda: self._joined(names, "weight"), bias)
        return self._arithmetic.pack(self._joined(names, "weight"), bias)

    def embedding(self, name: str) -> Embedding:
        """Read a row for each token."""
        if self._kept is not None:
            return self._kept.matrix(name, lambda: self._files.read(f"{name}.weight"))
        return self._arithmetic.embed(self._files.read(f"{name}.weight"))

    def _joined(self, names: Sequence[str], kind: str) -> Tensor:
        tensors = [self._files.read(f"{name}.{kind}") for name in names]
        # A head is too large to be copied for nothing.
        return torch.cat(tensors) if len(tensors) > 1 else tensors[0]

    def norm(self, name: str) -> Norm:
        return Norm(self._files.read(f"{name}.weight"), self._config.rms_norm_eps)

    def _dense(self, name: str, norm: Norm) -> DenseFeedForward:
        return DenseFeedForward(norm, self._gated_pair(name))

    def _sparse(self, name: str, norm: Norm) -> SparseFeedForward:
        config = self._config
        return SparseFeedForward(
            norm=norm,
            router=self._arithmetic.route(self._files.read(f"{name}.gate.weight")),
            experts=tuple(self._gated_pair(f"{name}.experts.{expert}") for expert in range(config.num_experts)),
            experts_per_token=config.num_experts_per_tok,
            normalized=config.norm_topk_prob,
        )

    def _gated_pair(self, name: str) -> GatedPair:
        return GatedPair(self.matrix(f"{name}.gate_proj", f"{name}.up_proj"), self.matrix(f"{name}.down_proj"))

    def _head_norms(self, attention: str) -> HeadNorms | None:
        if f"{attention}.q_norm.weight" not in self._files:
            return None
        weights = [self._files.read(f"{attention}.{name}.weight") for name in ("q_norm", "k_norm")]
        return HeadNorms(torch.stack(weights), self._config.num_attention_heads, self._config.rms_norm_eps)
