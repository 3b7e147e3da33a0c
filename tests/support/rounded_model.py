"""A model of transformers whose numbers are rounded to 8 bits where the engine's are, and multiplied in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from qwire.engine.q8.fallback import FallbackArithmetic, rounded, transformed
from qwire.engine.q8.kernel import GROUP


class RoundedModel:
    """Rounds a model's matrices at once, and what is multiplied with them as it comes; routers and adapters stay.

    What differs in the last bit may be rounded to another step, so that of two tokens that are nearly as likely, this
    model may prefer the other one: outputs are judged by `shortfall`.

    Args:
        model: Any that is called with token ids and returns logits; it is changed.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model: Any = model
        held: set[int] = set()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() >= 2 and "lora_" not in name and not name.endswith("mlp.gate.weight"):
                    matrix = parameter.detach().flatten(0, -2)
                    rows = FallbackArithmetic().pack(matrix).rows_of(torch.arange(len(matrix)))
                    parameter.copy_(rows.view_as(parameter))
                    held.add(_storage(parameter))
        self._rounding = _Rounding(held)

    def shortfall(self, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
        """Return by how much each output token's logit is below the best one, in standard deviations of its logits."""
        with torch.inference_mode(), self._rounding:
            logits = self._model(torch.tensor([[*prompt, *output[:-1]]])).logits[0, len(prompt) - 1 :]
        behind = logits.amax(-1) - logits.gather(-1, torch.tensor(output)[:, None])[:, 0]
        return behind / logits.std(-1)

    def check(self, outputs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Fail where an output token is not near the likeliest of its place, or more than 5 % are not the likeliest.

        Args:
            outputs: Prompts and what followed.
        """
        behind = torch.cat([self.shortfall(prompt, output) for prompt, output in outputs])
        assert behind.max() <= 0.1
        assert (behind == 0).float().mean() >= 0.95


class _Rounding(TorchFunctionMode):
    """Rounds the input of linear functions whose weights are held somewhere."""

    def __init__(self, held: set[int]) -> None:
        super().__init__()
        self._held = held

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is linear and _storage(args[1]) in self._held:
            x = args[0].flatten(0, -2)
            groups = rounded(x).unflatten(1, (-1, GROUP))
            args = (transformed(groups).flatten(1)[:, : x.shape[1]].view_as(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
