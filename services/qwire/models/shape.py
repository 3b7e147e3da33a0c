"""The shape of a Qwen: all that its memory depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen2, Qwen3 or Qwen3 MoE, by the names of `config.json` where they are said otherwise.

    Attributes:
        vocabulary: Rows of the embedding, `vocab_size`.
        hidden: `hidden_size`.
        layers: `num_hidden_layers`.
        heads: `num_attention_heads`.
        kv_heads: `num_key_value_heads`.
        head_size: `head_dim`, or hidden / heads.
        inner: `intermediate_size`; of an expert, `moe_intermediate_size`.
        tied: `tie_word_embeddings`: the head is the embedding.
        biased: Queries, keys and values have a bias, as those of Qwen2 have.
        head_norms: Queries and keys are normalized head by head, as those of Qwen3 are.
        experts: `num_experts` of each layer; 0 = dense.
        experts_per_token: `num_experts_per_tok`; 0 = dense.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    tied: bool
    biased: bool
    head_norms: bool
    experts: int = 0
    experts_per_token: int = 0

    @property
    def query_key_value(self) -> tuple[int, int, int]:
        """Rows of queries, of keys and of values."""
        return self.heads * self.head_size, self.kv_heads * self.head_size, self.kv_heads * self.head_size

    def linears(self) -> Iterator[tuple[int, int, int]]:
        """Yield rows, columns and number of the layers' linear layers, as checkpoints have them."""
        for rows in self.query_key_value:
            yield rows, self.hidden, self.layers
        yield self.hidden, self.heads * self.head_size, self.layers
        networks = self.layers * max(self.experts, 1)
        yield self.inner, self.hidden, 2 * networks
        yield self.hidden, self.inner, networks

    @property
    def embedding(self) -> int:
        """Numbers in the embedding, and in the head where it is another matrix."""
        return self.vocabulary * self.hidden

    @property
    def routers(self) -> int:
        """Numbers in the routers of experts."""
        return self.layers * self.experts * self.hidden

    @property
    def vectors(self) -> int:
        """Numbers in norms and biases."""
        norms = (2 * self.layers + 1) * self.hidden
        head_norms = 2 * self.layers * self.head_size if self.head_norms else 0
        return norms + head_norms + (self.layers * sum(self.query_key_value) if self.biased else 0)

    @property
    def parameters(self) -> int:
        """Weights in all, tied ones once."""
        matrices = sum(rows * columns * count for rows, columns, count in self.linears())
        return matrices + self.embedding * (1 if self.tied else 2) + self.routers + self.vectors

    @property
    def kv_numbers_per_token(self) -> int:
        """Numbers that the KV cache holds of a token."""
        return 2 * self.layers * self.kv_heads * self.head_size
