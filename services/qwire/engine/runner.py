"""Runs the model, one step at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.config import EngineConfig
from qwire.engine.decode_graphs import DecodeGraphs, record_decode
from qwire.engine.interruption import InterruptibleBatch, Interruption
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel
from qwire.engine.low_rank import AdapterRows
from qwire.engine.prompt_scorer import Scores, score
from qwire.engine.sampler import DrawnToken, draw
from qwire.engine.segment import Segment
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan


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
        pool: Where the keys and values of all sequences are; where `record_decode` is called, none has its last page.

    Attributes:
        interruption: Gives the step up that is under way.
        decode_graphs: Replays steps of single tokens; None = they are computed as others are.
    """

    def __init__(self, loaded: LoadedModel, pool: KVPool) -> None:
        self.interruption = Interruption()
        self.decode_graphs: DecodeGraphs | None = None
        self._loaded = loaded
        self._pool = pool
        self._logits = torch.empty(0)
        self._rows: dict[tuple[Sequence, int], int] = {}

    def record_decode(self, config: EngineConfig, context_tokens: int) -> None:
        """Record steps of single tokens, where they can be replayed: see `qwire.engine.decode_graphs.record_decode`."""
        self.decode_graphs = record_decode(self._loaded, self._pool, config, context_tokens)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Compute a plan that is not empty.

        Raises:
            StepInterrupted: The step was given up; nothing came of it.
        """
        hidden = self._forward(plan)
        return StepResult(self._draw(plan, hidden), score(self._loaded.decoder, hidden, plan))

    def _draw(self, plan: StepPlan, hidden: Tensor) -> list[DrawnToken | None]:
        """Return the drawn token of each of `plan.sampled`; None = none could be drawn."""
        sampled = plan.sampled
        if not sampled:
            return []
        rows: list[int] = []
        self._rows.clear()
        end = 0
        for tokens in plan.scheduled:
            end += tokens.rows
            if tokens.samples:
                for position in range(tokens.end, tokens.end + len(tokens.draft) + 1):
                    self._rows[tokens.sequence, position] = len(self._rows)
                rows += range(end - len(tokens.draft) - 1, end)
        if len(rows) < len(hidden):
            hidden = hidden[torch.tensor(rows, device=hidden.device)]
        logits = self._loaded.decoder.logits(hidden)
        if len(rows) == len(sampled):
            return draw(logits, sampled)
        self._logits = logits
        return self.draw_behind(plan)

    @torch.inference_mode()
    def draw_behind(self, plan: StepPlan) -> list[DrawnToken | None]:
        """Draw for tokens that the last executed plan computed as drafts, and that hold: see `Scheduler.update`.

        A token is a function of its logits, its seed and its position. The logits behind a draft are those that the
        model gives when the draft is the output, but for rounding; so the output is the same with drafts and without,
        however it is sampled. Only where two tokens are equal but for the last bits can it differ, and with the kernel
        of a CPU, which gives a token the same bits in any batch, not even there.
        """
        ends = [(tokens.sequence, tokens.end) for tokens in plan.scheduled if tokens.samples]
        rows = torch.tensor([self._rows[one] for one in ends], device=self._logits.device)
        return draw(self._logits[rows], plan.sampled)

    def _forward(self, plan: StepPlan) -> Tensor:
        """Return the last hidden states `[tokens, hidden_size]`."""
        token_ids: list[int] = []
        positions: list[int] = []
        segments: list[Segment] = []
        for tokens in plan.scheduled:
            token_ids += tokens.sequence.token_ids(tokens.start, tokens.length)
            token_ids += tokens.draft
            positions += range(tokens.start, tokens.start + tokens.rows)
            segments.append(Segment(tokens.pages, tokens.start, tokens.rows))
        if self.decode_graphs is not None and plan.is_plain_decode:
            self.interruption.check()
            replayed = self.decode_graphs.hidden(token_ids, segments)
            if replayed is not None:
                return replayed
        device = self._loaded.device
        return self._loaded.decoder.hidden(
            torch.tensor(token_ids, device=device),
            torch.tensor(positions, device=device),
            InterruptibleBatch(self._pool, segments, self._loaded.paged_attention, self.interruption),
            AdapterRows(((tokens.sequence.adapter, tokens.rows) for tokens in plan.scheduled), device),
        )
