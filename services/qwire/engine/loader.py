"""Loads a checkpoint folder onto a device."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from qwire.engine.attention import ATTENTION_NAME, KVShape
from qwire.engine.checkpoint_config import CheckpointConfig
from qwire.engine.config import EngineConfig
from qwire.engine.linear import pack_linears
from qwire.engine.protocol import QuantizationFacts

_BITS = {"int8": 8, "nf4": 4, "fp4": 4}


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the weight files hold.

    Attributes:
        parameters: Weights in all, tied ones once.
        non_finite: Weights that are NaN or infinite.
    """

    parameters: int
    non_finite: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, ready to run.

    Attributes:
        model: The transformers model.
        config: What the checkpoint says about it.
        device: Where it is.
        dtype: What it computes in, and what its KV cache holds.
        quantization: How its weights are held.
        weights: What the weight files hold.
    """

    model: PreTrainedModel
    config: CheckpointConfig
    device: torch.device
    dtype: torch.dtype
    quantization: QuantizationFacts
    weights: WeightFacts

    @property
    def kv_shape(self) -> KVShape:
        """What its KV cache is made of."""
        config = self.config
        return KVShape(config.layers, config.kv_heads, config.head_size, self.dtype, self.device)


def load_model(folder: Path, source_format: str, config: EngineConfig) -> LoadedModel:
    """Load a checkpoint. Blocks for seconds to minutes; runs no code of the checkpoint and reads safetensors only.

    Args:
        folder: Holds config.json and the weights.
        source_format: See `QuantizationFacts.source_format`.
        config: How the engine runs.

    Raises:
        UnsupportedCheckpoint: The folder holds nothing that this engine can run.
        ValueError: The configuration does not fit the device or the model.
    """
    checkpoint = CheckpointConfig.read(folder)
    _check_context(config, checkpoint.context_tokens)
    device = _device(config.device)
    dtype = _dtype(config.compute_dtype, device)
    torch.set_num_threads(thread_count(config))
    transformers.logging.disable_progress_bar()
    quantization = _quantization(config, dtype)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=ATTENTION_NAME,
        device_map={"": str(device)},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **({} if quantization is None else {"quantization_config": quantization}),
    ).eval()
    facts = _quantization_facts(model, config, dtype, source_format)
    if device.type == "cpu":
        pack_linears(model, config.max_step_tokens)
    return LoadedModel(model, checkpoint, device, dtype, facts, _weight_facts(folder))


def thread_count(config: EngineConfig) -> int:
    """Return the CPU threads of one matrix product. More than one per physical core only makes them wait."""
    if config.threads is not None:
        return config.threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def _check_context(config: EngineConfig, model_tokens: int) -> None:
    context_tokens = config.context_tokens or model_tokens
    if context_tokens > model_tokens:
        raise ValueError(f"context_tokens is {context_tokens}; the model was made for {model_tokens}")
    if config.default_max_output_tokens >= context_tokens:
        raise ValueError(
            f"default_max_output_tokens is {config.default_max_output_tokens}; it must be below the context, "
            f"{context_tokens} tokens"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}, which torch does not know") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but this machine has no CUDA device")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; it must be a CPU or a CUDA device")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        if name not in ("auto", "float32"):
            raise ValueError(f"compute_dtype is {name}, but a CPU computes in float32 only")
        return torch.float32
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _quantization(config: EngineConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if config.quantization == "none":
        return None
    if config.quantization == "int8":
        # It says in every product of every step that activations are cast; that is how it works.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def _quantization_facts(
    model: nn.Module, config: EngineConfig, dtype: torch.dtype, source_format: str
) -> QuantizationFacts:
    quantized = config.quantization != "none"
    skipped = [name for name, module in model.named_modules() if quantized and type(module) is nn.Linear]
    return QuantizationFacts(
        method=config.quantization,
        bits=_BITS.get(config.quantization, dtype.itemsize * 8),
        compute_dtype=str(dtype).removeprefix("torch."),
        double_quantization=config.quantization in ("nf4", "fp4") and config.double_quantization,
        skipped_modules=tuple(skipped),
        source_format=source_format,
    )


def _weight_facts(folder: Path) -> WeightFacts:
    """Count in the files, one tensor at a time: the loaded weights may be quantized or reordered."""
    parameters = non_finite = 0
    for path in sorted(folder.glob("*.safetensors")):
        file: Any
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                tensor = file.get_tensor(name)
                parameters += tensor.numel()
                # A finite sum proves finite weights in one pass without a mask.
                if not tensor.sum(dtype=torch.float32).isfinite():
                    non_finite += int(tensor.isfinite().logical_not().sum())
    return WeightFacts(parameters, non_finite)
