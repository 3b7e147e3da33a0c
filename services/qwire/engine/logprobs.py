"""Says how likely the drawn tokens were, for the rows whose requests ask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwire.engine.chunk import TokenLogprobs
from qwire.engine.ranking import rank
from qwire.engine.request import MAX_TOP_LOGPROBS
from qwire.engine.sequence import Sequence
from qwire.engine.serial import sum_of_exp


class LogprobReader:
    """Keeps the logits of the rows that ask, as the model gave them, until their tokens are drawn.

    Args:
        logits: `[rows, vocabulary]`, float32; may be changed afterwards.
        sequences: Whose rows they are.
    """

    def __init__(self, logits: Tensor, sequences: list[Sequence]) -> None:
        self._asked = {row: top for row, s in enumerate(sequences) if (top := s.request.top_logprobs) is not None}
        self._logits = logits[torch.tensor(list(self._asked), device=logits.device)] if self._asked else logits[:0]

    def read(self, token_ids: list[int | None]) -> list[TokenLogprobs | None]:
        """Return a record for each row that asked and has a token."""
        records: list[TokenLogprobs | None] = [None] * len(token_ids)
        for logits, (row, top) in zip(self._logits, self._asked.items(), strict=True):
            token_id = token_ids[row]
            if token_id is not None:
                records[row] = token_logprobs(logits, token_id, top)
        return records


def token_logprobs(row: Tensor, token_id: int, top: int) -> TokenLogprobs:
    """Return the record of one row of finite logits: by itself, so that it is the same in every batch."""
    places = min(MAX_TOP_LOGPROBS + 1, len(row))
    ranking = rank(row[None], places)
    if ranking.certain[0] < min(top, len(row)):
        ranking = rank(row[None], len(row))
    largest = ranking.logits[0, 0].item()
    log_total = largest + math.log(sum_of_exp(row, largest))
    best = zip(ranking.token_ids[0, :top].tolist(), ranking.logits[0, :top].tolist(), strict=True)
    return TokenLogprobs(row[token_id].item() - log_total, tuple((one, logit - log_total) for one, logit in best))
