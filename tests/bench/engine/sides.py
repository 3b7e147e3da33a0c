"""All sides: which are compared with each other, and how each is started."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from tests.bench.engine import peers
from tests.bench.engine.side import Command

CPU_GROUPS = {
    "float32": ("float32", "continuous-batching", "vllm", "generate"),
    "q8": ("q8", "openvino", "llama"),
}
"""Sides that take turns, by the name of the group's first; all of a group are in memory at once."""
RANDOM_GROUPS = {"none": ("none", "int8", "nf4", "continuous-batching", "generate")}
"""Those of random weights: no peer that reads files of its own format."""
PATIENCE = {"generate": 8, "llama": 8}
"""Sides that would take minutes for a round of more requests at once; their speed hardly changes with them."""
REUSING = frozenset({"float32", "q8", "none", "int8", "nf4", "continuous-batching", "vllm", "openvino"})
"""Sides that compute a common beginning once."""

_PROGRAMS = "tests.bench.engine.programs"
_TOKENS_PER_STREAM = 2048


@dataclass(frozen=True, slots=True)
class Setup:
    """What all sides have in common.

    Attributes:
        folder: The checkpoint.
        gguf: The published file that it was made from, for llama.cpp; None = there is none.
        device: Torch device.
        dtype: What the weights that are not quantized are computed in.
        threads: CPU threads of each side.
        streams: The most requests at once.
        attention: What continuous batching attends with, its steps recorded; None = it decides.
    """

    folder: Path
    gguf: Path | None
    device: str
    dtype: str
    threads: int
    streams: int
    attention: str | None = None


def fast_attention(device: str) -> str | None:
    """Return the fastest attention that continuous batching can have on a CUDA device; None = there is none here."""
    if not device.startswith("cuda"):
        return None
    if is_flash_attn_3_available(kernels_fallback_ok=True):
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available(kernels_fallback_ok=True) else None


def command(name: str, setup: Setup) -> Command:
    """Return how to start a side; installs it where it needs an environment of its own.

    Raises:
        PeerMissing: It does not install.
    """
    if name == "vllm":
        options = {"folder": str(setup.folder), "dtype": setup.dtype, "streams": setup.streams}
        cores = sorted(os.sched_getaffinity(0))[: setup.threads]
        environment = {
            "PYTHONPATH": "",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        return _python(peers.vllm(), "vllm", {**options, "context_tokens": _TOKENS_PER_STREAM}, environment)
    if name == "openvino":
        python = peers.openvino()
        model = peers.openvino_model(python, setup.folder)
        options = {"folder": str(model), "threads": setup.threads, "streams": setup.streams}
        return _python(python, "openvino", options, {"PYTHONPATH": ""})
    if name == "llama":
        if setup.gguf is None:
            raise peers.PeerMissing("there is no GGUF file of this model")
        line = ("node", "generate.js", str(setup.gguf.absolute()), str(setup.streams), str(setup.threads))
        return Command(line, {}, peers.llama())
    options = {"folder": str(setup.folder), "device": setup.device, "threads": setup.threads, "dtype": setup.dtype}
    options |= {"streams": setup.streams, "attention": setup.attention}
    if name in ("generate", "continuous-batching"):
        return _python(Path(sys.executable), name.replace("-", "_"), options, {})
    config = {
        "device": setup.device,
        "threads": setup.threads,
        "quantization": "none" if name == "float32" else name,
        "compute_dtype": setup.dtype,
        "max_running": setup.streams,
        "kv_capacity_tokens": setup.streams * _TOKENS_PER_STREAM,
    }
    return _python(Path(sys.executable), "engine", {"folder": str(setup.folder), "config": config}, {})


def _python(python: Path, program: str, options: dict[str, Any], environment: dict[str, str]) -> Command:
    return Command((str(python), "-m", f"{_PROGRAMS}.{program}", json.dumps(options)), environment)
