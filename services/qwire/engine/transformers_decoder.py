"""A transformers model, unchanged but for its attention."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from qwire.engine.attention import RaggedBatch

ATTENTION_NAME = "qwire_ragged"
"""The name that our attention is registered under. It has no mask function, so transformers builds no mask."""


class TransformersDecoder:
    """Runs a causal language model that was loaded with `attn_implementation=ATTENTION_NAME`.

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._decoder: nn.Module = model.model  # pyright: ignore[reportAttributeAccessIssue] - every causal model has one
        self._head: nn.Module = model.lm_head  # pyright: ignore[reportAttributeAccessIssue] - the same

    def hidden(self, token_ids: Tensor, positions: Tensor, ragged: RaggedBatch) -> Tensor:
        """Compute a step; see `Decoder.hidden`."""
        output = self._decoder(input_ids=token_ids[None], position_ids=positions[None], use_cache=False, ragged=ragged)
        return output.last_hidden_state[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits; see `Decoder.logits`."""
        return self._head(hidden).float()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: None,
    *,
    scaling: float,
    ragged: RaggedBatch,
    **_unused: object,
) -> tuple[Tensor, None]:
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType] - nn.Module types no attribute
    return ragged.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, _attention)
