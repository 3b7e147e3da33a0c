"""Runs the model, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from qwire.engine.attention import RaggedBatch, Segment
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel
from qwire.engine.low_rank import AdapterRows
from qwire.engine.sampler import DrawnToken, draw
from qwire.engine.scheduler import StepPlan


class ModelRunner:
    """Computes step plans: one forward over the packed tokens of all sequences. Used from one thread.

    Args:
        loaded: The model.
        pool: Where the keys and values of all sequences are.
    """

    def __init__(self, loaded: LoadedModel, pool: KVPool) -> None:
        self._loaded = loaded
        self._pool = pool

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> list[DrawnToken | None]:
        """Compute a plan that is not empty.

        Returns:
            The drawn token of each of `plan.sampled`; None = none could be drawn.
        """
        hidden = self._forward(plan)
        sampled = plan.sampled
        if not sampled:
            return []
        rows: list[int] = []
        end = 0
        for tokens in plan.scheduled:
            end += tokens.length
            if tokens.samples:
                rows.append(end - 1)
        if len(rows) < len(hidden):
            hidden = hidden[torch.tensor(rows, device=hidden.device)]
        return draw(self._loaded.decoder.logits(hidden), sampled)

    def _forward(self, plan: StepPlan) -> Tensor:
        """Return the last hidden states `[tokens, hidden_size]`."""
        token_ids: list[int] = []
        positions: list[int] = []
        segments: list[Segment] = []
        for tokens in plan.scheduled:
            token_ids += tokens.sequence.token_ids(tokens.start, tokens.length)
            positions += range(tokens.start, tokens.start + tokens.length)
            segments.append(Segment(tokens.pages, tokens.start, tokens.length))
        device = self._loaded.device
        return self._loaded.decoder.hidden(
            torch.tensor(token_ids, device=device),
            torch.tensor(positions, device=device),
            RaggedBatch(self._pool, segments, self._loaded.lone_attention),
            AdapterRows(((tokens.sequence.adapter, tokens.length) for tokens in plan.scheduled), device),
        )
