"""What the model runner asks of a model: hidden states of packed tokens, and logits of some of them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from qwire.engine.adapter import Projections
from qwire.engine.low_rank import AdapterRows
from qwire.engine.paged_attention import StepAttention


class Decoder(Protocol):
    """A loaded decoder model; used from one thread, in inference mode."""

    @property
    def products(self) -> tuple[Projections, ...]:
        """The products of a layer that adapters can change: of which linear layers each consists."""
        ...

    def hidden(self, token_ids: Tensor, positions: Tensor, ragged: StepAttention, adapters: AdapterRows) -> Tensor:
        """Compute a step.

        Args:
            token_ids: `[tokens]`, int64: the packed tokens of all sequences.
            positions: `[tokens]`, int64: where each stands in its sequence.
            ragged: Where keys and values go, and what each token sees.
            adapters: Which tokens have which adapter.

        Returns:
            What `logits` takes, `[tokens, hidden_size]`.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of some rows of `hidden`, `[rows, vocabulary]`, float32."""
        ...
