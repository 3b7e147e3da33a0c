"""A Qwen2 or Qwen3, dense or of experts, on a CPU, in as few steps as it has products.

The forward of transformers spends as much time around its matrix products as a fast kernel spends in them. Here norms,
activations, biases and residual additions are part of the products, and products of the same input are one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qwire.engine.adapter import ATTENTION_OUTPUT, DOWN, GATE_UP, QUERY_KEY_VALUE, Projections
from qwire.engine.arithmetic import Arithmetic, Embedding, HeadNorms, Matrix, Norm
from qwire.engine.feed_forward import FeedForward
from qwire.engine.low_rank import AdapterRows
from qwire.engine.paged_attention import StepAttention
from qwire.engine.rotary import RotaryEmbedding


@dataclass(frozen=True, slots=True)
class LeanLayer:
    """The weights of a decoder layer.

    Attributes:
        attention_norm: On the way into the attention.
        query_key_value: Rows of queries, keys and values, one after the other.
        head_norms: Of single heads, as Qwen3 has them; None = none.
        attention_output: Back to the hidden states.
        feed_forward: What follows the attention.
    """

    attention_norm: Norm
    query_key_value: Matrix
    head_norms: HeadNorms | None
    attention_output: Matrix
    feed_forward: FeedForward


@dataclass(frozen=True, slots=True)
class LeanDecoder:
    """See `qwire.engine.decoder.Decoder`.

    Attributes:
        arithmetic: Turns heads by their positions.
        rotary: By which angles.
        heads: Query heads of a layer.
        kv_heads: Key and value heads of a layer.
        head_size: Numbers in a head.
        embedding: A row for each token: where they come in.
        layers: In order.
        norm: On the way into the head.
        head: A row for each token: where their logits come out.
    """

    arithmetic: Arithmetic
    rotary: RotaryEmbedding
    heads: int
    kv_heads: int
    head_size: int
    embedding: Embedding
    layers: tuple[LeanLayer, ...]
    norm: Norm
    head: Matrix

    @property
    def products(self) -> tuple[Projections, ...]:
        """See `Decoder.products`."""
        return QUERY_KEY_VALUE, ATTENTION_OUTPUT, GATE_UP, DOWN

    def hidden(self, token_ids: Tensor, positions: Tensor, ragged: StepAttention, adapters: AdapterRows) -> Tensor:
        """Compute a step; the rows are not normalized yet."""
        tokens = len(token_ids)
        counts = (self.heads, self.kv_heads, self.kv_heads)
        hidden = self.embedding.rows_of(token_ids)
        cos, sin = self.rotary.of(positions)
        for index, layer in enumerate(self.layers):
            query_key_value = layer.query_key_value.of(hidden, layer.attention_norm)
            adapters.add(index, QUERY_KEY_VALUE, query_key_value, hidden, layer.attention_norm.of)
            heads = query_key_value.view(tokens, -1, self.head_size)
            self.arithmetic.rotate(heads[:, : self.heads + self.kv_heads], cos, sin, layer.head_norms)
            query, key, value = heads.transpose(0, 1)[None].split(counts, dim=1)
            attended = ragged.attend(index, query, key, value, self.head_size**-0.5).view(tokens, -1)
            layer.attention_output.add_to(hidden, attended)
            adapters.add(index, ATTENTION_OUTPUT, hidden, attended)
            layer.feed_forward.add_to(hidden, index, adapters)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of rows."""
        return self.head.of(hidden, self.norm)
