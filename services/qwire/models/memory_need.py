"""How much memory a model needs: weights as each quantization holds them, KV cache, and what else a server takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from qwire.models.shape import Shape

GIB = 2**30
BITSANDBYTES = ("int8", "nf4", "fp4")
"""Quantizations that leave experts as they are; the engine refuses them on a mixture of experts."""
RUNTIME_BYTES = GIB
"""Python, torch, its libraries and their workspace, on a GPU with the context of CUDA: a margin, not computed."""
STEP_TOKENS = 256
"""Tokens of a step, as engines are configured by default (`max_step_tokens`)."""

_FLOAT32 = 4
_HALF = 2
# Of `qwire.engine.q8`: rows of a block, columns of a group, and a group's bytes, 64 and a float16 scale; rows that
# float32 holds together.
_BLOCK, _GROUP, _GROUP_BYTES, _LANES = 32, 64, 66, 32
# Of bitsandbytes: weights that share a scale, scales that share one of theirs, and the tables of both.
_WEIGHTS, _SCALES, _TABLE, _SCALE_TABLE = 64, 256, 16, 256


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a model needs on one device.

    Attributes:
        weights_bytes: The weights, with their scales; what is not quantized is in the compute dtype. Of float32 on a
            CPU it is the most: matrices whose numbers fit into fewer bytes take fewer, those of published checkpoints
            in bfloat16 half of it.
        kv_bytes: Keys and values of all tokens asked for.
        step_bytes: What one step works with: hidden states, the widest layer, and logits.
        loading_bytes: What loading takes for a moment beside the weights: the largest matrix before it is packed. At
            that moment there is no KV cache yet.
        runtime_bytes: See `RUNTIME_BYTES`.
    """

    weights_bytes: int
    kv_bytes: int
    step_bytes: int
    loading_bytes: int
    runtime_bytes: int = RUNTIME_BYTES

    @property
    def total_bytes(self) -> int:
        """The most at any time."""
        return self.weights_bytes + max(self.kv_bytes + self.step_bytes, self.loading_bytes) + self.runtime_bytes


def memory_need(shape: Shape, quantization: str, device: str, *, tokens: int, sequences: int) -> MemoryNeed:
    """Compute what a model needs.

    Args:
        shape: The model's.
        quantization: One of `none`, `q8`, `int8`, `nf4`, `fp4`; 4-bit ones with quantized scales, as is the default.
        device: `cpu`, which computes in float32, or `gpu`, which computes in bfloat16 or float16.
        tokens: Prompt and output of each sequence.
        sequences: How many run at once.

    Raises:
        KeyError: There is no such quantization.
        ValueError: The model has experts, and the quantization leaves them as they are.
    """
    if shape.experts and quantization in BITSANDBYTES:
        raise ValueError(f"{quantization} does not quantize experts")
    width = _FLOAT32 if device == "cpu" else _HALF
    heads = shape.heads + 2 * shape.kv_heads
    row = 4 * shape.hidden + 2 * heads * shape.head_size + 3 * shape.inner * max(shape.experts_per_token, 1)
    return MemoryNeed(
        weights_bytes=WEIGHTS[quantization](shape, width),
        kv_bytes=shape.kv_numbers_per_token * width * tokens * sequences,
        # Logits are float32 everywhere; drawing from them makes about three copies.
        step_bytes=STEP_TOKENS * row * width + 4 * sequences * shape.vocabulary * _FLOAT32,
        # Gate and up are read one by one and joined.
        loading_bytes=width * max(shape.embedding, 4 * shape.inner * shape.hidden),
    )


def _plain(shape: Shape, width: int) -> int:
    if width == _HALF:
        return width * shape.parameters
    # On a CPU, as the kernel holds them; where there is no compiler, a tied head is a second matrix.
    padded = sum(_up(rows, _LANES) * columns * count for rows, columns, count in _matrices(shape))
    return width * (padded + shape.routers + shape.vectors)


def _q8(shape: Shape, _width: int) -> int:
    groups = sum(_up(rows, _BLOCK) * -(-columns // _GROUP) * count for rows, columns, count in _matrices(shape))
    return groups * _GROUP_BYTES + _FLOAT32 * (shape.routers + shape.vectors)


def _matrices(shape: Shape) -> tuple[tuple[int, int, int], ...]:
    """Return the matrices of our own decoder: rows, columns, and how many there are."""
    inner, networks = shape.inner, shape.layers * max(shape.experts, 1)
    return (
        (sum(shape.query_key_value), shape.hidden, shape.layers),
        (shape.hidden, shape.heads * shape.head_size, shape.layers),
        (2 * inner, shape.hidden, networks),
        (shape.hidden, inner, networks),
        (shape.vocabulary, shape.hidden, 1 if shape.tied else 2),
    )


def _bitsandbytes(matrix_bytes: Callable[[int, int], int], shape: Shape, width: int) -> int:
    """Linear layers of the layers are quantized; embedding, head, norms and biases stay as they are."""
    saved = sum(
        (width * rows * columns - matrix_bytes(rows, columns)) * count for rows, columns, count in shape.linears()
    )
    return width * shape.parameters - saved


def _int8(rows: int, columns: int) -> int:
    return rows * columns + _FLOAT32 * rows


def _4bit(rows: int, columns: int) -> int:
    scales = -(-rows * columns // _WEIGHTS)
    of_scales = _FLOAT32 * (-(-scales // _SCALES) + _SCALE_TABLE + 1)
    return -(-rows * columns // 2) + scales + of_scales + _FLOAT32 * _TABLE


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


WEIGHTS: dict[str, Callable[[Shape, int], int]] = {
    "none": _plain,
    "q8": _q8,
    "int8": partial(_bitsandbytes, _int8),
    "nf4": partial(_bitsandbytes, _4bit),
    "fp4": partial(_bitsandbytes, _4bit),
}
"""Bytes of the weights by quantization, of a shape and the bytes of a number of the compute dtype."""
