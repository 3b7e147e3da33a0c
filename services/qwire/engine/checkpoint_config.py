"""What a checkpoint folder says about its model, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwire.engine.request import SamplingParams

ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
# Rotary embeddings that look at a token's own position only. The others look at the longest sequence of the batch, so
# that a request's output would depend on what else runs.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# What transformers takes for Qwen3 where the file does not say; for the others it divides.
_QWEN3_HEAD_SIZE = 128
_QWEN3_MOE_EXPERTS = 128


class UnsupportedCheckpoint(Exception):
    """The operator's: the folder holds nothing that this engine can run."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """The facts of `config.json` and `generation_config.json`.

    Attributes:
        architecture: Class of the model in transformers.
        vocabulary_tokens: Token ids are below it.
        context_tokens: Positions that the model was made for; with YaRN, those that its factor reaches.
        layers: Decoder layers.
        heads: Query heads of a layer.
        kv_heads: Key and value heads of a layer.
        head_size: Numbers in a head.
        sparse_layers: Layers whose feed-forward part is a mixture of experts, from 0.
        eos_token_ids: Tokens that end a turn; may be none.
        default_sampling: The model's own generation defaults.
    """

    architecture: str
    vocabulary_tokens: int
    context_tokens: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    sparse_layers: frozenset[int]
    eos_token_ids: frozenset[int]
    default_sampling: SamplingParams

    @classmethod
    def read(cls, folder: Path) -> CheckpointConfig:
        """Read a folder.

        Raises:
            UnsupportedCheckpoint: A file is missing or malformed, or the model is no Qwen2, Qwen3 or Qwen3 MoE,
                or one that would run wrong.
        """
        if not any(folder.glob("*.safetensors")):
            raise UnsupportedCheckpoint(f"{folder} holds no *.safetensors file; other weight formats are not loaded")
        config = _read_json(folder / "config.json")
        generation_path = folder / "generation_config.json"
        generation = _read_json(generation_path) if generation_path.exists() else {}
        _check_supported(config)
        try:
            return cls(
                architecture=ARCHITECTURES[config["model_type"]],
                vocabulary_tokens=config["vocab_size"],
                context_tokens=_context_tokens(config),
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                kv_heads=config["num_key_value_heads"],
                head_size=_head_size(config),
                sparse_layers=_sparse_layers(config),
                eos_token_ids=_token_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
                default_sampling=_default_sampling(generation),
            )
        except KeyError as error:
            raise UnsupportedCheckpoint(f"{folder / 'config.json'} has no {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedCheckpoint(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedCheckpoint(f"{path} is not a JSON object")
    return content


def _check_supported(config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise UnsupportedCheckpoint(f"the model type is {model_type!r}; it must be one of {', '.join(ARCHITECTURES)}")
    architectures = config.get("architectures") or [ARCHITECTURES[model_type]]
    if architectures != [ARCHITECTURES[model_type]]:
        raise UnsupportedCheckpoint(f"the architecture is {architectures}; it must be {ARCHITECTURES[model_type]}")
    if config.get("quantization_config"):
        raise UnsupportedCheckpoint(
            "the weights are quantized already; take the unquantized checkpoint and set `engine.quantization`"
        )
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or []):
        raise UnsupportedCheckpoint("sliding window attention is not supported")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UnsupportedCheckpoint(f"the activation is {activation!r}; it must be silu")
    rope_type = _rope(config)["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise UnsupportedCheckpoint(f"the rotary embedding is {rope_type!r}; it must be one of {', '.join(ROPE_TYPES)}")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the rotary embedding; older checkpoints say `rope_scaling`, and in it `type`."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    return {**rope, "rope_type": rope.get("rope_type", rope.get("type", "default"))}


def _context_tokens(config: Mapping[str, Any]) -> int:
    trained, rope = config["max_position_embeddings"], _rope(config)
    if rope["rope_type"] != "yarn" or rope.get("factor") is None:
        return trained
    # Qwen's long-context setting leaves `max_position_embeddings` as it was trained.
    return max(trained, int(rope["factor"] * rope.get("original_max_position_embeddings", trained)))


def _head_size(config: Mapping[str, Any]) -> int:
    if config.get("head_dim"):
        return config["head_dim"]
    if config["model_type"] == "qwen3":
        return _QWEN3_HEAD_SIZE
    return config["hidden_size"] // config["num_attention_heads"]


def _sparse_layers(config: Mapping[str, Any]) -> frozenset[int]:
    if config["model_type"] != "qwen3_moe":
        return frozenset()
    # transformers writes `num_local_experts` where Qwen wrote `num_experts`.
    experts = config.get("num_experts", config.get("num_local_experts", _QWEN3_MOE_EXPERTS))
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
    layers = range(config["num_hidden_layers"]) if experts > 0 else ()
    return frozenset(layer for layer in layers if (layer + 1) % step == 0 and layer not in dense)


def _token_ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _default_sampling(generation: Mapping[str, Any]) -> SamplingParams:
    """Return the generation defaults; what the file does not say is transformers' default."""

    def get(name: str, default: float) -> float:
        value = generation.get(name)
        return default if value is None else value

    return SamplingParams(
        repetition_penalty=get("repetition_penalty", 1.0),
        temperature=get("temperature", 1.0) if generation.get("do_sample") else 0.0,
        top_k=int(get("top_k", 50)),
        top_p=get("top_p", 1.0),
        min_p=get("min_p", 0.0),
    )
