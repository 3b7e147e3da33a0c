"""Loads a checkpoint folder onto a device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from qwire.engine.adapter import ADAPTABLE
from qwire.engine.arithmetic import Arithmetic, Product, product_by_torch
from qwire.engine.attention_check import TOLERANCE, deviation
from qwire.engine.checkpoint_config import CheckpointConfig
from qwire.engine.config import PAGE_TOKENS, EngineConfig
from qwire.engine.decoder import Decoder
from qwire.engine.exact import ExactArithmetic
from qwire.engine.flash_attention import PAGE_TOKENS as FLASH_PAGE_TOKENS
from qwire.engine.flash_attention import FlashAttention, unmet_demand
from qwire.engine.kv_pool import KVShape
from qwire.engine.lean_loader import load_lean
from qwire.engine.paged_attention import PagedAttention
from qwire.engine.protocol import QuantizationFacts
from qwire.engine.q8.build import BuildFailed, build
from qwire.engine.q8.fallback import FallbackArithmetic
from qwire.engine.q8.float32 import Float32Arithmetic
from qwire.engine.q8.kept import KeptMatrices
from qwire.engine.q8.kernel import Q8Arithmetic
from qwire.engine.quality_gate import check_quality
from qwire.engine.resident import release_freed
from qwire.engine.weight_files import WeightFiles
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

BITSANDBYTES = ("int8", "nf4", "fp4")
"""Quantizations that are bitsandbytes'; on CPUs the others are those of our own decoder."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, ready to run.

    Attributes:
        decoder: Computes it.
        config: What the checkpoint says about it.
        device: Where it is.
        dtype: What it computes in, and what its KV cache holds.
        quantization: How its weights are held.
        parameters: Weights in all, tied ones once.
        non_finite_weights: Those of them that are NaN or infinite.
        linear_shapes: Rows and columns of the linear layers that an adapter may change, by their names in the weights.
        page_tokens: Tokens of a page of its KV cache.
        paged_attention: Attends for tokens; None = torch does.
        exact: Takes a matrix `[rows, columns]` of an adapter, on its device and in its dtype. With the kernel, a row
            has the same bits in any batch, as those of the model have.
    """

    decoder: Decoder
    config: CheckpointConfig
    device: torch.device
    dtype: torch.dtype
    quantization: QuantizationFacts
    parameters: int
    non_finite_weights: int
    linear_shapes: Mapping[str, tuple[int, int]]
    page_tokens: int
    paged_attention: PagedAttention | None = None
    exact: Callable[[Tensor], Product] = product_by_torch

    @property
    def kv_shape(self) -> KVShape:
        """What its KV cache is made of."""
        return _kv_shape(self.config, self.dtype, self.device)


def load_model(
    folder: Path, source_format: str, config: EngineConfig, *, weights_sha256: str | None = None
) -> LoadedModel:
    """Load a checkpoint. Blocks for seconds to minutes; runs no code of the checkpoint and reads safetensors only.

    Args:
        folder: Holds config.json and the weights.
        source_format: See `QuantizationFacts.source_format`.
        config: How the engine runs.
        weights_sha256: See `Checkpoint.weights_sha256`; by it the quality of a quantization is looked up, and what was
            quantized before. None = neither is, as where it is about to be measured.

    Raises:
        UnsupportedCheckpoint: The folder holds nothing that this engine can run.
        ValueError: The configuration does not fit the device or the model, the quantization fails the quality gate, or
            the folder of adapters is none.
    """
    if config.adapters_dir is not None and not config.adapters_dir.is_dir():
        raise ValueError(f"adapters_dir is {config.adapters_dir}, which is no folder")
    checkpoint = CheckpointConfig.read(folder)
    _check_context(config, checkpoint.context_tokens)
    device = _device(config.device)
    if config.quantization == "q8" and device.type != "cpu":
        raise ValueError(f"quantization is q8, which is for CPUs; the device is {device}")
    if checkpoint.sparse_layers and config.quantization in BITSANDBYTES:
        raise ValueError(
            f"quantization is {config.quantization}, which leaves the experts of {checkpoint.architecture}, nearly all "
            f"of its weights, as they are; it must be none, or q8 on a CPU"
        )
    dtype = _dtype(config.compute_dtype, device)
    page_tokens = config.page_tokens or _page_tokens(_kv_shape(checkpoint, dtype, device))
    torch.set_num_threads(thread_count(config))
    files = WeightFiles(folder)
    decoder: Decoder
    paged: PagedAttention | None = None
    exact = product_by_torch
    if device.type == "cpu" and config.quantization not in BITSANDBYTES:
        arithmetic, facts = _arithmetic(config, source_format)
        if weights_sha256 is not None and facts.method == "q8":
            check_quality(weights_sha256, facts.method, config)
        kept: KeptMatrices | None = None
        packed_dir = config.packed_dir if config.keep_packed else None
        if isinstance(arithmetic, Q8Arithmetic) and packed_dir is not None and weights_sha256 is not None:
            kept = KeptMatrices(arithmetic, packed_dir, weights_sha256, (folder / "config.json").read_bytes())
        try:
            decoder = load_lean(folder, checkpoint, files, arithmetic, kept)
        except BaseException:
            if kept is not None:
                kept.abandon()
            raise
        paged, exact = arithmetic.attention, arithmetic.exact
    else:
        if weights_sha256 is not None and config.quantization in BITSANDBYTES:
            check_quality(weights_sha256, config.quantization, config)
        # Where it is not needed its hundred megabytes are not taken.
        from qwire.engine.transformers_loader import load_transformers  # noqa: PLC0415

        decoder, facts = load_transformers(folder, source_format, config, device, dtype)
        files.read_all()
        paged = None if device.type == "cpu" else _flash_attention(checkpoint, dtype, device, page_tokens)
    shapes = _linear_shapes(files, checkpoint.layers)
    release_freed()
    return LoadedModel(
        *(decoder, checkpoint, device, dtype, facts),
        *(files.parameters, files.non_finite, shapes, page_tokens, paged, exact),
    )


def thread_count(config: EngineConfig) -> int:
    """Return the CPU threads of one matrix product. More than one per physical core only makes them wait."""
    if config.threads is not None:
        return config.threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def _arithmetic(config: EngineConfig, source_format: str) -> tuple[Arithmetic, QuantizationFacts]:
    """Return how our own decoder holds its weights on this machine."""
    exact = QuantizationFacts("none", bits=32, compute_dtype="float32", source_format=source_format)
    q8 = replace(exact, method="q8", bits=8)
    try:
        library = build(config.kernel_dir or Path.home() / ".cache" / "qwire" / "kernels")
        return (Float32Arithmetic(library), exact) if config.quantization == "none" else (Q8Arithmetic(library), q8)
    except (BuildFailed, OSError) as error:
        slow = "q8" if config.quantization == "q8" else "float32"
        log.warning("kernel_unavailable", weights=f"{slow} by torch alone, which is slower", reason=str(error))
        return (FallbackArithmetic(), q8) if slow == "q8" else (ExactArithmetic(config.max_step_tokens), exact)


def _kv_shape(config: CheckpointConfig, dtype: torch.dtype, device: torch.device) -> KVShape:
    return KVShape(config.layers, config.kv_heads, config.head_size, dtype, device)


def _page_tokens(shape: KVShape) -> int:
    flash = shape.device.type == "cuda" and unmet_demand(shape, FLASH_PAGE_TOKENS) is None
    return FLASH_PAGE_TOKENS if flash else PAGE_TOKENS


def _flash_attention(
    checkpoint: CheckpointConfig, dtype: torch.dtype, device: torch.device, page_tokens: int
) -> FlashAttention | None:
    """Return what attends on a CUDA device, if it can and does so as torch does; else log why it is left to torch."""
    shape = _kv_shape(checkpoint, dtype, device)
    reason = unmet_demand(shape, page_tokens)
    if reason is None:
        # It brings the compiler of torch with it, 75 MB and 3 s.
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

        attention = FlashAttention(varlen_attn)
        try:
            difference = deviation(attention, shape, checkpoint.heads, page_tokens)
            if difference <= TOLERANCE:
                return attention
            reason = f"it differs from torch's attention by {difference:.3f}"
        except RuntimeError as error:
            reason = str(error)
    log.warning("flash_attention_unavailable", attention="by torch, one generation after the other", reason=reason)
    return None


def _linear_shapes(files: WeightFiles, layers: int) -> dict[str, tuple[int, int]]:
    names = [f"model.layers.{layer}.{projection}" for layer in range(layers) for projection in ADAPTABLE]
    return {name: files.shape(f"{name}.weight") for name in names if f"{name}.weight" in files}


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
