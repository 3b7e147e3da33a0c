"""Adapters as peft makes and applies them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def base_model(checkpoint: Path, **options: Any) -> Any:
    """Return transformers' model of a checkpoint."""
    return AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True, dtype=torch.float32, **options)


def write_adapter(checkpoint: Path, folder: Path, seed: int = 0, scale: float = 0.1, **options: Any) -> Path:
    """Have peft save a random adapter that moves every layer that it is for; `options` are those of LoraConfig."""
    torch.manual_seed(seed)
    chosen: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL), "task_type": "CAUSAL_LM"}
    model: Any = get_peft_model(base_model(checkpoint), LoraConfig(**{**chosen, **options}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero, as training begins
                parameter.normal_(std=scale)
    model.save_pretrained(folder)
    return folder


def with_adapter(checkpoint: Path, folder: Path, **options: Any) -> Any:
    """Return transformers' model with an adapter applied by peft."""
    return PeftModel.from_pretrained(base_model(checkpoint, **options), str(folder)).eval()


def greedy(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """Return what `generate` adds to a prompt, whatever ends a turn."""
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        eos_token_id=10**6,  # beyond the vocabulary: never
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()
