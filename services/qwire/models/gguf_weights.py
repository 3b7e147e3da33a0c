"""Weights of a GGUF file as safetensors shards with the names that transformers expects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from qwire.models.errors import ConversionFailed
from qwire.models.gguf_file import GGUFFile, TensorInfo

ARCHITECTURE = "qwen2"
# Bounds the memory of a conversion; no tensor is split, so a large vocabulary may exceed it by itself.
SHARD_BYTES = 1 << 30
_FLOAT32_BYTES = 4

_TOP_LEVEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<module>\w+)\.(?P<kind>weight|bias)")


def transformers_name(name: str) -> str:
    """The name that transformers gives to a tensor of a Qwen2 GGUF file.

    Raises:
        ConversionFailed: The tensor is not one of a Qwen2 model; leaving it out would change the model in silence.
    """
    match = _NAME.fullmatch(name)
    layer = match["layer"] if match else None
    module = (_TOP_LEVEL if layer is None else _IN_LAYER).get(match["module"]) if match else None
    if match is None or module is None:
        raise ConversionFailed(f"tensor {name!r} has no place in a {ARCHITECTURE} model.")
    prefix = "" if layer is None else f"model.layers.{layer}."
    return f"{prefix}{module}.{match['kind']}"


def model_config(file: GGUFFile, eos_token_id: int, pad_token_id: int) -> dict[str, Any]:
    """The content of `config.json`.

    An output matrix of its own, quantized apart from the embedding, is kept apart (`tie_word_embeddings` false), even
    where the publisher's full-precision model ties the two: after quantization they are different numbers.

    Raises:
        ConversionFailed: Another architecture, or a key is missing.
    """
    if (architecture := file.metadata.get("general.architecture")) != ARCHITECTURE:
        raise ConversionFailed(f"architecture {architecture!r} cannot be converted; only {ARCHITECTURE!r} can.")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    try:
        epsilon = file.metadata["qwen2.attention.layer_norm_rms_epsilon"]
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "hidden_size": file.metadata["qwen2.embedding_length"],
            "intermediate_size": file.metadata["qwen2.feed_forward_length"],
            "num_hidden_layers": file.metadata["qwen2.block_count"],
            "num_attention_heads": file.metadata["qwen2.attention.head_count"],
            "num_key_value_heads": file.metadata["qwen2.attention.head_count_kv"],
            "max_position_embeddings": file.metadata["qwen2.context_length"],
            "rope_theta": file.metadata["qwen2.rope.freq_base"],
            # Stored as float32; its shortest decimal form is what the publisher wrote.
            "rms_norm_eps": float(str(np.float32(epsilon))),
            "vocab_size": tensors["token_embd.weight"].shape[0],
            "tie_word_embeddings": "output.weight" not in tensors,
            "use_sliding_window": False,
            "use_cache": True,
            "bos_token_id": pad_token_id,
            "eos_token_id": eos_token_id,
            "dtype": "float32",
        }
    except KeyError as error:
        raise ConversionFailed(f"the file lacks {error}.") from error


def write_weights(file: GGUFFile, folder: Path, report: Callable[[int], None]) -> None:
    """Write `model-*.safetensors` and their index, in float32.

    Float32 because nothing smaller holds the values: a block's scale has 11 significant bits and a value up to 8 more.
    Measured on the default model, float16 changes 47 % and bfloat16 79 % of them.

    Args:
        file: The opened file.
        folder: An existing folder.
        report: Called with the bytes written so far.

    Raises:
        ConversionFailed: A tensor is unknown or stored in a way that cannot be dequantized.
    """
    shards = list(_shards(file.tensors))
    weight_map: dict[str, str] = {}
    written_bytes = 0
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        values: dict[str, npt.NDArray[np.float32]] = {}
        for tensor in shard:
            values[transformers_name(tensor.name)] = file.dequantized(tensor)
            written_bytes += tensor.elements * _FLOAT32_BYTES
            report(written_bytes)
        save_file(values, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # the library writes for the owner only; a cache may have several readers
        weight_map.update(dict.fromkeys(values, name))
    index = {"metadata": {"total_size": written_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def weights_bytes(file: GGUFFile) -> int:
    """How many bytes `write_weights` writes, headers not counted."""
    return sum(tensor.elements for tensor in file.tensors) * _FLOAT32_BYTES


def _shards(tensors: tuple[TensorInfo, ...]) -> Iterator[list[TensorInfo]]:
    shard: list[TensorInfo] = []
    shard_bytes = 0
    for tensor in tensors:
        tensor_bytes = tensor.elements * _FLOAT32_BYTES
        if shard and shard_bytes + tensor_bytes > SHARD_BYTES:
            yield shard
            shard, shard_bytes = [], 0
        shard.append(tensor)
        shard_bytes += tensor_bytes
    if shard:
        yield shard
