"""Which published models fit into a memory, for a task.

It needs no server, no network and no library, so that the command line can answer from the client's installation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qwire.models.memory_need import BITSANDBYTES, MemoryNeed, memory_need
from qwire.models.published import PUBLISHED, TASKS, PublishedModel
from qwire.models.quality import failed_quantizations

DEVICES = ("gpu", "cpu")
DEFAULT_CONTEXT_TOKENS = 8_192

# From the most exact to the smallest. On CPUs float32 never comes before `q8`: it is larger and slower, and `q8`
# passes the gate of quality. `fp4` is as large as `nf4` and worse.
_QUANTIZATIONS = {"gpu": ("none", "int8", "nf4"), "cpu": ("q8",)}
_ABOUT = {
    "none": "16-bit weights, as published",
    "q8": "8-bit weights, the default on CPUs",
    "int8": "8-bit weights: 16-bit ones do not fit",
    "nf4": "4-bit weights: 8-bit ones do not fit",
}
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model that fits.

    Attributes:
        model: Its hub name, as `models[].source` takes it.
        license: Of its weights.
        parameters: Weights in all.
        made_for_task: Whether the task is what the model was made for.
        quantization: The most exact that fits, as `models[].engine.quantization` takes it.
        need: What it needs.
        context_tokens: Tokens of each sequence that the need is computed for.
        model_context_tokens: What the model can.
        why: The reasons, one line.
    """

    model: str
    license: str
    parameters: int
    made_for_task: bool
    quantization: str
    need: MemoryNeed
    context_tokens: int
    model_context_tokens: int
    why: str


def recommend(
    task: str, memory_bytes: int, *, device: str = "gpu", context_tokens: int | None = None, sequences: int = 1
) -> tuple[Recommendation, ...]:
    """Return the models that fit, each with the most exact quantization that does; best first.

    Quantizations that failed the gate of quality come last. Before them: models that were made for the task, then
    others that can do it; larger ones first. It is no measure of how well a model does the task.

    Args:
        task: One of `TASKS`.
        memory_bytes: What may be used in all, on the device that computes.
        device: `gpu` or `cpu`.
        context_tokens: Prompt and output tokens of each sequence, at least 1; models that cannot take so many are left
            out. None = 8,192, or what the model can where that is less.
        sequences: How many run at once with so much context, at least 1.

    Raises:
        ValueError: An argument is out of range; the text names it.
    """
    check_request(task, device=device, memory_bytes=memory_bytes, context_tokens=context_tokens, sequences=sequences)
    fitting = [
        found
        for model in PUBLISHED
        if task in model.tasks and (context_tokens or 0) <= model.context_tokens
        for found in _first_that_fits(
            model, task, memory_bytes=memory_bytes, device=device, context_tokens=context_tokens, sequences=sequences
        )
    ]
    return tuple(sorted(fitting, key=_rank))


def parse_memory(text: str) -> int:
    """Return the bytes of a size such as `24GiB` or `500 MB`.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no size; write a number and a unit, such as 24GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_tokens(text: str) -> int:
    """Return the tokens of a number such as `32768` or `32k`, where k is 1,024.

    Raises:
        ValueError: It is none, or below 1.
    """
    match = re.fullmatch(r"(\d+)(k?)", text.strip().lower())
    if match is None or int(match[1]) < 1:
        raise ValueError(f"{text!r} is no number of tokens; write one such as 32768 or 32k")
    return int(match[1]) * (1024 if match[2] else 1)


def check_request(
    task: str | None,
    *,
    device: str,
    memory_bytes: int | None = None,
    context_tokens: int | None = None,
    sequences: int = 1,
) -> None:
    """Check what is asked for; see `recommend`. None = not asked for.

    Raises:
        ValueError: One is out of range; the text names it.
    """
    if task is not None:
        _check_choice("task", task, TASKS)
    _check_choice("device", device, DEVICES)
    for name, value in (("memory", memory_bytes), ("context", context_tokens), ("concurrency", sequences)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def _first_that_fits(
    model: PublishedModel, task: str, *, memory_bytes: int, device: str, context_tokens: int | None, sequences: int
) -> Iterator[Recommendation]:
    tokens = context_tokens or min(DEFAULT_CONTEXT_TOKENS, model.context_tokens)
    made_for_task = model.tasks[0] == task
    purpose = f"made for {task}" if made_for_task else f"a {model.tasks[0]} model that does {task} as well"
    for quantization in _QUANTIZATIONS[device]:
        if model.shape.experts and quantization in BITSANDBYTES:
            continue
        failed = ", but it failed the quality gate on other weights" if quantization in failed_quantizations() else ""
        need = memory_need(model.shape, quantization, device, tokens=tokens, sequences=sequences)
        if need.total_bytes <= memory_bytes:
            yield Recommendation(
                model=model.name,
                license=model.license,
                parameters=model.shape.parameters,
                made_for_task=made_for_task,
                quantization=quantization,
                need=need,
                context_tokens=tokens,
                model_context_tokens=model.context_tokens,
                why=f"{purpose}; {_ABOUT[quantization]}{failed}",
            )
            return


def _rank(found: Recommendation) -> tuple[bool, bool, int, int]:
    return (
        found.quantization in failed_quantizations(),
        not found.made_for_task,
        -found.parameters,
        -found.model_context_tokens,
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
