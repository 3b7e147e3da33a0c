"""What every quantization of the published models needs.

As with recommendations, it needs no server, no network and no library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwire.models.memory_need import BITSANDBYTES, MemoryNeed, memory_need
from qwire.models.published import PUBLISHED, PublishedModel
from qwire.models.recommendation import DEFAULT_CONTEXT_TOKENS, check_request

QUANTIZATIONS = {"gpu": ("none", "int8", "nf4", "fp4"), "cpu": ("none", "q8")}
"""Those that the engine computes well on a device, from the most exact to the smallest."""


@dataclass(frozen=True, slots=True)
class PublishedNeeds:
    """A published model, and what it needs.

    Attributes:
        model: Its hub name, as `models[].source` takes it.
        license: Of its weights.
        parameters: Weights in all.
        tasks: What it is for; what it was made for first.
        model_context_tokens: What it can.
        context_tokens: Tokens of each sequence that the needs are computed for.
        needs: By quantization, as `models[].engine.quantization` takes it; without those that the engine refuses.
    """

    model: str
    license: str
    parameters: int
    tasks: tuple[str, ...]
    model_context_tokens: int
    context_tokens: int
    needs: Mapping[str, MemoryNeed]


def published_needs(
    task: str | None = None, *, device: str = "gpu", context_tokens: int | None = None, sequences: int = 1
) -> tuple[PublishedNeeds, ...]:
    """Return the published models with the needs of each quantization; older families first.

    Args:
        task: One of `TASKS`: only models that can do it. None = all.
        device: `gpu` or `cpu`.
        context_tokens: See `recommend`.
        sequences: See `recommend`.

    Raises:
        ValueError: An argument is out of range; the text names it.
    """
    check_request(task, device=device, context_tokens=context_tokens, sequences=sequences)
    return tuple(
        _needs(model, device, context_tokens or min(DEFAULT_CONTEXT_TOKENS, model.context_tokens), sequences)
        for model in PUBLISHED
        if (task is None or task in model.tasks) and (context_tokens or 0) <= model.context_tokens
    )


def _needs(model: PublishedModel, device: str, tokens: int, sequences: int) -> PublishedNeeds:
    return PublishedNeeds(
        model=model.name,
        license=model.license,
        parameters=model.shape.parameters,
        tasks=model.tasks,
        model_context_tokens=model.context_tokens,
        context_tokens=tokens,
        needs={
            quantization: memory_need(model.shape, quantization, device, tokens=tokens, sequences=sequences)
            for quantization in QUANTIZATIONS[device]
            if not (model.shape.experts and quantization in BITSANDBYTES)
        },
    )
