"""Loads a checkpoint as a transformers model, for every device and quantization that our own decoder does not cover."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from qwire.engine.config import EngineConfig
from qwire.engine.protocol import QuantizationFacts
from qwire.engine.transformers_decoder import ATTENTION_NAME, TransformersDecoder

_BITS = {"int8": 8, "nf4": 4, "fp4": 4}


def load_transformers(
    folder: Path, source_format: str, config: EngineConfig, device: torch.device, dtype: torch.dtype
) -> tuple[TransformersDecoder, QuantizationFacts]:
    """Load a checked checkpoint; see `qwire.engine.loader.load_model`."""
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
    return TransformersDecoder(model), _quantization_facts(model, config, dtype, source_format)


def _quantization(config: EngineConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if config.quantization in ("none", "auto"):
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
    quantized = config.quantization in _BITS
    skipped = [name for name, module in model.named_modules() if quantized and type(module) is nn.Linear]
    return QuantizationFacts(
        method=config.quantization if quantized else "none",
        bits=_BITS.get(config.quantization, dtype.itemsize * 8),
        compute_dtype=str(dtype).removeprefix("torch."),
        double_quantization=config.quantization in ("nf4", "fp4") and config.double_quantization,
        skipped_modules=tuple(skipped),
        source_format=source_format,
    )
