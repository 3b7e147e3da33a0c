"""Attention over packed tokens of many sequences, each with a KV cache of its own.

A step's tokens, whole prompts, parts of prompts and single decode tokens, stand one after the other in one row of a
batch of one. The model computes everything but the attention on the row as a whole; the attention is done here,
sequence by sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class KVShape:
    """Keys and values of a model.

    Attributes:
        layers: Decoder layers.
        kv_heads: Key and value heads of a layer.
        head_size: Numbers in a head.
        dtype: Type of the numbers.
        device: Where they are.
    """

    layers: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Size of a token's keys and values in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.dtype.itemsize


class SequenceCache:
    """Keys and values of one sequence, for all layers.

    Args:
        shape: Those of the model.
        capacity_tokens: Tokens that the sequence may grow to.
    """

    def __init__(self, shape: KVShape, capacity_tokens: int) -> None:
        size = (shape.layers, 1, shape.kv_heads, capacity_tokens, shape.head_size)
        self.keys = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self.values = torch.empty(size, dtype=shape.dtype, device=shape.device)


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens of one sequence in one step: `length` of them, the first one at position `start`."""

    cache: SequenceCache
    start: int
    length: int


class RaggedBatch:
    """The packed tokens of a step: where their keys and values go, and what they see. All views are made once a step.

    Args:
        segments: The sequences, in the order of their packed tokens.
    """

    def __init__(self, segments: list[Segment]) -> None:
        self.lengths = [segment.length for segment in segments]
        self.decode_only = all(length == 1 for length in self.lengths)
        self.masks = [_mask(segment) for segment in segments]
        self.new_keys = _layers([s.cache.keys.narrow(3, s.start, s.length) for s in segments])
        self.new_values = _layers([s.cache.values.narrow(3, s.start, s.length) for s in segments])
        self.keys = _layers([s.cache.keys.narrow(3, 0, s.start + s.length) for s in segments])
        self.values = _layers([s.cache.values.narrow(3, 0, s.start + s.length) for s in segments])


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, *, scaling: float, ragged: RaggedBatch) -> Tensor:
    """Store the new keys and values of each sequence and attend to all that it has.

    Args:
        layer: Which decoder layer.
        query: `[1, heads, tokens, head_size]`.
        key: `[1, kv_heads, tokens, head_size]`.
        value: As `key`.
        scaling: Factor of the scores.
        ragged: The step's batch.

    Returns:
        `[1, tokens, heads, head_size]`
    """
    _copy(ragged.new_keys[layer], key.split(ragged.lengths, dim=2))
    _copy(ragged.new_values[layer], value.split(ragged.lengths, dim=2))
    queries = query.split(ragged.lengths, dim=2)
    _, heads, tokens, head_size = query.shape
    if ragged.decode_only:
        seen = zip(queries, ragged.keys[layer], ragged.values[layer], strict=True)
        rows = [_attend_one(q, k, v, scaling) for q, k, v in seen]
        return torch.cat(rows).view(1, tokens, heads, head_size)
    outputs: list[Tensor] = []
    for q, k, v, mask in zip(queries, ragged.keys[layer], ragged.values[layer], ragged.masks, strict=True):
        if q.shape[2] == 1:
            outputs.append(_attend_one(q, k, v, scaling).reshape(1, 1, heads, head_size))
        else:
            outputs.append(_attend_many(q, k, v, mask, scaling))
    return torch.cat(outputs, dim=1)


def _attend_one(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend with one token, whose query heads of one KV head take the place of query positions: nothing is repeated.

    Returns:
        `[1, kv_heads, heads / kv_heads, head_size]`
    """
    kv_heads, head_size = key.shape[1], key.shape[3]
    grouped = query.reshape(1, kv_heads, -1, head_size)
    return scaled_dot_product_attention(grouped, key, value, scale=scaling)


def _attend_many(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attend with several tokens; without a mask they are the sequence's first, for which `is_causal` is right."""
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2)


def _mask(segment: Segment) -> Tensor | None:
    """Return what tokens see that follow others; `is_causal` would align the first query with the first key."""
    if segment.start == 0 or segment.length == 1:
        return None
    keys = segment.cache.keys
    end = segment.start + segment.length
    mask = torch.full((segment.length, end), -torch.inf, dtype=keys.dtype, device=keys.device)
    return mask.triu_(segment.start + 1)


def _layers(views: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Turn one view of all layers per sequence into one tuple of sequences per layer."""
    return list(zip(*(view.unbind(0) for view in views), strict=True))


def _copy(targets: tuple[Tensor, ...], sources: tuple[Tensor, ...]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
