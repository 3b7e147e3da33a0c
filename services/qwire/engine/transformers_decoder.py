"""A transformers model, unchanged but for its attention."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, PreTrainedModel

from qwire.engine.adapter import ADAPTABLE, Projections
from qwire.engine.low_rank import AdapterRows
from qwire.engine.paged_attention import StepAttention

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

    @property
    def products(self) -> tuple[Projections, ...]:
        """See `Decoder.products`."""
        return tuple((projection,) for projection in ADAPTABLE)

    def hidden(self, token_ids: Tensor, positions: Tensor, ragged: StepAttention, adapters: AdapterRows) -> Tensor:
        """Compute a step; see `Decoder.hidden`."""
        inputs = {"input_ids": token_ids[None], "position_ids": positions[None]}
        with self._changed(adapters):
            output = self._decoder(**inputs, use_cache=False, ragged=ragged)
        return output.last_hidden_state[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits; see `Decoder.logits`."""
        return self._head(hidden).float()

    @contextmanager
    def _changed(self, adapters: AdapterRows) -> Generator[None]:
        """Have linear layers add what adapters add, for one step: others have no hooks to go through."""

        def hooked(layer: int, product: Projections) -> RemovableHandle:
            def add(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
                adapters.add(layer, product, output[0], inputs[0][0])

            (projection,) = product
            return self._decoder.get_submodule(f"layers.{layer}.{projection}").register_forward_hook(add)

        hooks = [hooked(layer, product) for layer, product in adapters.changed()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: None,
    *,
    scaling: float,
    ragged: StepAttention,
    **_unused: object,
) -> tuple[Tensor, None]:
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType] - nn.Module types no attribute
    return ragged.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, _attention)
