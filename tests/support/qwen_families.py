"""A tiny random model of each Qwen family, with the traits of its published config.json, but for sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

EOS = 3
VOCABULARY = 500
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    # Large enough that the best two logits are far apart: no draw hangs on the last bits of a sum.
    "initializer_range": 0.4,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "pad_token_id": None,
}
_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 40,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
}
_LONG = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 140}


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def _qwen2(**traits: Any) -> Qwen2Config:
    """Biases on queries, keys and values; heads divide the hidden size; the window of the layers is switched off."""
    values: dict[str, Any] = {**_SIZES, "sliding_window": 131072, "max_window_layers": 2, **traits}
    return Qwen2Config(**values)


def _qwen3(**traits: Any) -> Qwen3Config:
    """Norms of heads, no biases, and heads that are larger than their share of the hidden size."""
    values: dict[str, Any] = {**_SIZES, "head_dim": 16, "rope_parameters": _rope(1e6), **traits}
    return Qwen3Config(**values)


def _qwen3_moe(**traits: Any) -> Qwen3MoeConfig:
    """As Qwen3, with experts that are smaller than a dense layer's part."""
    shared: dict[str, Any] = {"head_dim": 16, "rope_parameters": _rope(1e6), "max_position_embeddings": 40960}
    values: dict[str, Any] = {**_SIZES, **_EXPERTS, **shared, **traits}
    return Qwen3MoeConfig(**values)


FAMILIES: dict[str, PreTrainedConfig] = {
    # The small ones tie the head to the embedding, the large ones do not.
    "qwen2-small": _qwen2(rope_parameters=_rope(1e6), max_position_embeddings=32768, tie_word_embeddings=True),
    "qwen2-large": _qwen2(rope_parameters=_rope(1e6), max_position_embeddings=32768, tie_word_embeddings=False),
    # Qwen2.5 with the setting for long contexts that its model cards tell of.
    "qwen2.5-yarn": _qwen2(rope_parameters=_LONG, max_position_embeddings=140, tie_word_embeddings=False),
    "qwen2.5-coder": _qwen2(rope_parameters=_rope(1e6), max_position_embeddings=32768, tie_word_embeddings=True),
    "qwen2.5-math": _qwen2(rope_parameters=_rope(1e4), max_position_embeddings=4096, tie_word_embeddings=True),
    "qwen3-small": _qwen3(max_position_embeddings=40960, tie_word_embeddings=True),
    "qwen3-large": _qwen3(max_position_embeddings=40960, tie_word_embeddings=False),
    "qwen3-biased": _qwen3(max_position_embeddings=40960, attention_bias=True),
    "qwen3-moe": _qwen3_moe(),
    # Dense layers among the sparse ones: every second one by the step, and one by name.
    "qwen3-moe-mixed": _qwen3_moe(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], num_experts=5),
    "qwen3-moe-raw": _qwen3_moe(norm_topk_prob=False, num_experts_per_tok=1, tie_word_embeddings=True),
}
"""Each family's configuration, by a short name."""

_MODELS: dict[str, type[PreTrainedModel]] = {
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "qwen3_moe": Qwen3MoeForCausalLM,
}


def write_family(name: str, folder: Path, **sizes: Any) -> Path:
    """Write the tiny model of a family, with other sizes where they are given; returns its folder."""
    config = type(FAMILIES[name])(**{**FAMILIES[name].to_dict(), **sizes})
    torch.manual_seed(sum(name.encode()))
    model = _MODELS[config.model_type](config)
    with torch.no_grad():
        # Biases and norms are not random by default; a model that ignored them would pass.
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(std=0.5)
            elif "norm" in parameter_name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return folder
