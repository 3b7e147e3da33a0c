"""Checkpoints of random weights in a known shape, made on the spot: for machines without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Published shapes by name, and a tiny one that shows that all this runs."""


def write_random_checkpoint(folder: Path, shape: str, dtype: torch.dtype) -> Path:
    """Write config.json and one file of weights a layer; does nothing where the folder has them.

    Args:
        folder: Where to.
        shape: A name of `SHAPES`.
        dtype: Of the weights.
    """
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    sizes = SHAPES[shape]
    hidden, inner, vocabulary = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    keys = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    linear = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    random_source = torch.Generator().manual_seed(1)

    def draw(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype).normal_(std=0.02, generator=random_source)

    placed: dict[str, str] = {}

    def save(file: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(tensors, file))

    for layer in range(sizes["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        tensors = {f"{name}.{part}.weight": draw(*size) for part, size in linear.items()}
        tensors |= {f"{name}.{part}.bias": draw(linear[part][0]) for part in list(linear)[:3]}
        norms = ("input_layernorm", "post_attention_layernorm")
        tensors |= {f"{name}.{norm}.weight": torch.ones(hidden, dtype=dtype) for norm in norms}
        save(f"model-{layer:05}.safetensors", tensors)
    ends = {"model.embed_tokens.weight": draw(vocabulary, hidden), "lm_head.weight": draw(vocabulary, hidden)}
    save("model-ends.safetensors", {**ends, "model.norm.weight": torch.ones(hidden, dtype=dtype)})
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = {
        **sizes,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "eos_token_id": 1,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")  # last: it says that the rest is there
    return folder
