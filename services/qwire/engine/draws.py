"""Draws from the candidates that top-k, top-p and min-p leave, many rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.noise import keyed_noise, loud_token_ids, noise_key
from qwire.engine.ranking import Ranking
from qwire.engine.sequence import Sequence
from qwire.engine.serial import exp, sum_of_exp


@dataclass(frozen=True, slots=True)
class Choice:
    """What was drawn from a ranking, `[rows]`.

    Attributes:
        token_ids: The tokens.
        perturbed: Their score plus noise: the largest of all candidates.
        settled: Whether the ranking held all candidates for certain; where it did not, the draw counts for nothing.
    """

    token_ids: Tensor
    perturbed: Tensor
    settled: Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """The parameters of one draw per row, `[rows, 1]` in main memory.

    The arithmetic is float64 and gives each row the same bits in every batch: what is not element by element is a
    cumulative sum, which adds up from the left whatever the number of rows and places.

    Attributes:
        temperature: Divides the logits.
        top_k: int64; the vocabulary where it is off.
        top_p: Infinite where it is off.
        log_min_p: Minus infinity where it is off.
        totals: The weights of the whole row, added up; NaN where top-k or no top-p makes them needless.
        keys: int64, `[rows, 2]`: of the noise.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    log_min_p: Tensor
    totals: Tensor
    keys: Tensor

    @classmethod
    def of(cls, logits: Tensor, largest: Tensor, sequences: list[Sequence]) -> Draws:
        """Return the parameters of the next draw of each sequence.

        Args:
            logits: `[rows, vocabulary]`, float32.
            largest: `[rows]`: the largest logit of each row.
            sequences: Whose rows they are.
        """
        vocabulary = logits.shape[-1]
        samplings = [sequence.request.sampling for sequence in sequences]
        top_k = [sampling.top_k if 0 < sampling.top_k < vocabulary else vocabulary for sampling in samplings]
        totals = [
            sum_of_exp(row, best, sampling.temperature) if k == vocabulary and sampling.top_p < 1 else math.nan
            for row, best, k, sampling in zip(logits, largest.tolist(), top_k, samplings, strict=True)
        ]
        return cls(
            temperature=_column([sampling.temperature for sampling in samplings]),
            top_k=torch.tensor(top_k)[:, None],
            top_p=_column([sampling.top_p if sampling.top_p < 1 else math.inf for sampling in samplings]),
            log_min_p=_column([math.log(one.min_p) if one.min_p > 0 else -math.inf for one in samplings]),
            totals=_column(totals),
            keys=torch.tensor([noise_key(s.request.sampling.seed, len(s.output_token_ids)) for s in sequences]),
        )

    def choose(self, ranking: Ranking) -> Choice:
        """Draw from the ranked tokens."""
        scores = ranking.logits.double() / self.temperature
        weights = exp(scores - scores[:, :1])
        reached = weights.cumsum(dim=-1)
        places = scores.shape[-1]
        totals = torch.where(self.totals.isnan(), self._top_k_totals(reached), self.totals)
        before = torch.nn.functional.pad(reached[:, :-1], (1, 0))
        # A token goes when those before it have reached p.
        kept = (before < self.top_p * totals) & (torch.arange(places) < self.top_k)
        kept &= scores >= scores[:, :1] + self.log_min_p
        kept &= scores > -math.inf  # what must not be drawn is no candidate, even where there are fewer than k others
        candidates = kept.sum(dim=-1)
        width = max(1, int(candidates.max()))
        token_ids = ranking.token_ids[:, :width]
        perturbed = scores[:, :width] + keyed_noise(self.keys, token_ids)
        best = perturbed.masked_fill(~kept[:, :width], -math.inf).max(dim=-1)
        chosen = token_ids.gather(-1, best.indices[:, None])[:, 0]
        return Choice(chosen, best.values, candidates <= ranking.certain)

    def choose_from_all(self, logits: Tensor, row: int, ranking: Ranking, choice: Choice) -> int:
        """Draw from the whole vocabulary where neither top-k nor top-p bounds it.

        Only a token whose noise makes up for its distance can win against the best of the likeliest ones.

        Args:
            logits: One row.
            row: Which of the draws it is.
            ranking: The likeliest tokens of all rows.
            choice: What was drawn from these.
        """
        temperature, perturbed = self.temperature[row].item(), choice.perturbed[row].item()
        largest, least = (ranking.logits[row, place].item() / temperature for place in (0, -1))
        token_ids = loud_token_ids(self.keys[row], len(logits), perturbed - least, logits.device)
        scores, token_ids = logits[token_ids].cpu().double() / temperature, token_ids.cpu()
        rivals = scores + keyed_noise(self.keys[row], token_ids)
        rivals[scores < largest + self.log_min_p[row].item()] = -math.inf
        if len(rivals) and rivals.max().item() > perturbed:
            return int(token_ids[rivals.argmax()])
        return int(choice.token_ids[row])

    def _top_k_totals(self, reached: Tensor) -> Tensor:
        """Return the weights of the k most likely tokens, added up; infinite where there are fewer places than k."""
        places = reached.shape[-1]
        totals = reached.gather(-1, self.top_k.clamp(max=places) - 1)
        return totals.masked_fill(self.top_k > places, math.inf)


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]
