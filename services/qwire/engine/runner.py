"""Runs the model, one step at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.attention import RaggedBatch, Segment
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel
from qwire.engine.prompt_scorer import Scores, score
from qwire.engine.sampler import DrawnToken, draw
from qwire.engine.scheduler import StepPlan


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step brought.

    Attributes:
        drawn: The drawn token of each of `StepPlan.sampled`; None = none could be drawn.
        scores: What it tells of prompts.
    """

    drawn: list[DrawnToken | None]
    scores: Scores


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
    def execute(self, plan: StepPlan) -> StepResult:
        """Compute a plan that is not empty."""
        hidden = self._forward(plan)
        return StepResult(self._draw(plan, hidden), score(self._loaded.decoder, hidden, plan))

    def _draw(self, plan: StepPlan, hidden: Tensor) -> list[DrawnToken | None]:
        """Return the drawn token of each of `plan.sampled`; None = none could be drawn."""
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
        )
