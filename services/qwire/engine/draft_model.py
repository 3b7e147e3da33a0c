"""Drafts by a smaller model of the same vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from torch import Tensor
from torch.nn.functional import pad

from qwire.engine.adapter import Projections
from qwire.engine.cache import KVCacheManager
from qwire.engine.decoder import Decoder
from qwire.engine.drafter import Drafts
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel
from qwire.engine.low_rank import AdapterRows
from qwire.engine.paged_attention import StepAttention
from qwire.engine.runner import ModelRunner
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import ScheduledTokens, StepPlan

_NEVER = -1e30
"""A logit of tokens that the draft model does not have: finite, and far below any that it gives."""


class DraftModel:
    """See `Drafter`. Draws with each request's own parameters and seed, from the logits of the draft model.

    The same noise decides both draws, so guesses hold for sampled requests nearly as often as for greedy ones.
    Constraints and adapters are left aside.

    It follows each sequence in a copy whose keys and values are in a KV cache of its own. The copy outlives rejected
    drafts, of which it keeps what held, and preemption, as tokens only come to a sequence. When the cache is full, the
    copies that were not needed for the longest time go, and then those of the last sequences, so that those of the
    first ones can grow. A sequence for whose copy there is no room has no drafts.

    Args:
        loaded: The draft model.
        vocabulary_tokens: Token ids of the model that it drafts for are below it.
        pages: Pages of its KV cache.
        page_tokens: Tokens of a page.
        draft_tokens: The most tokens of a draft, at least 1.
        step_tokens: The most prompt and output tokens that it catches up with beside a step of the large model. A long
            prompt is caught up with over several steps, and has no draft meanwhile.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vocabulary_tokens: int,
        *,
        pages: int,
        page_tokens: int,
        draft_tokens: int,
        step_tokens: int,
    ) -> None:
        own_tokens = loaded.config.vocabulary_tokens
        if own_tokens != vocabulary_tokens:
            loaded = replace(loaded, decoder=_Resized(loaded.decoder, own_tokens, vocabulary_tokens))
        self._runner = ModelRunner(loaded, KVPool(loaded.kv_shape, pages, page_tokens))
        # A page found again would save little, and would have to be told apart from what was only guessed.
        self._cache = KVCacheManager(pages, page_tokens, prefix_reuse=False)
        self._context_tokens = loaded.config.context_tokens
        self._draft_tokens = draft_tokens
        self._step_tokens = step_tokens
        self._copies: dict[Sequence, Sequence] = {}  # the one that was not needed for the longest time first

    def draft(self, rooms: Mapping[Sequence, int]) -> Drafts:
        """See `Drafter.draft`."""
        for sequence in [sequence for sequence in self._copies if sequence.ended]:
            self._forget(sequence)
        order = list(rooms)
        copies = {sequence: self._copy(sequence, order[place:], rooms) for place, sequence in enumerate(order)}
        lengths = {
            copy: min(rooms[sequence], self._draft_tokens) for sequence, copy in copies.items() if copy is not None
        }
        begun = {copy: len(copy.output_token_ids) for copy in lengths}
        drafting = self._catch_up(list(lengths))
        while drafting:
            drafting = [copy for copy in drafting if len(copy.output_token_ids) - begun[copy] < lengths[copy]]
            drafting = self._step([self._scheduled(copy, copy.pending_tokens) for copy in drafting])
        drafts = {
            sequence: tuple(copy.output_token_ids[begun[copy] :])
            for sequence, copy in copies.items()
            if copy is not None
        }
        return {sequence: draft for sequence, draft in drafts.items() if draft}

    def _catch_up(self, copies: list[Sequence]) -> list[Sequence]:
        """Compute what is missing, as far as a step goes, and draw the first guesses; return who can go on."""
        budget = self._step_tokens
        scheduled: list[ScheduledTokens] = []
        for copy in copies:
            length = min(copy.pending_tokens, budget)
            budget -= length
            if length:
                scheduled.append(self._scheduled(copy, length))
        return self._step(scheduled)

    def _scheduled(self, copy: Sequence, length: int) -> ScheduledTokens:
        start = copy.computed_tokens
        pages = self._cache.pages(copy, start + length)
        return ScheduledTokens(copy, start, length, length == copy.pending_tokens, pages)

    def _step(self, scheduled: list[ScheduledTokens]) -> list[Sequence]:
        """Compute and draw; return who has a new guess and can go on from it."""
        if not scheduled:
            return []
        plan = StepPlan(tuple(scheduled))
        drawn = self._runner.execute(plan).drawn
        for tokens in scheduled:
            tokens.sequence.computed_tokens = tokens.end
        going: list[Sequence] = []
        for copy, token in zip(plan.sampled, drawn, strict=True):
            if token is not None:
                copy.append(token.token_id, 0)
                if not copy.ended:
                    going.append(copy)
        return going

    def _copy(self, sequence: Sequence, rest: list[Sequence], needed: Mapping[Sequence, int]) -> Sequence | None:
        """Return the sequence's copy with its present output, and with pages for a draft; None = it can have none.

        Args:
            sequence: Whose.
            rest: It, and those whose copies are asked for after it.
            needed: All whose copies are needed now.
        """
        most_tokens = sequence.total_tokens + self._draft_tokens
        if most_tokens > self._context_tokens:
            return None
        copy = self._copies.pop(sequence, None)
        if copy is None:
            request = replace(sequence.request, constraint=None, top_logprobs=None, prompt_logprobs=None, adapter="")
            copy = Sequence(request, sequence.eos_token_ids, sequence.arrival, sequence.arrived_unix_ns)
            self._align(copy, sequence)
            while not self._cache.can_allocate(copy):
                if not self._forget_one(other for other in self._copies if other not in needed):
                    return None
            self._cache.allocate(copy)
        else:
            self._align(copy, sequence)
        self._copies[sequence] = copy
        while self._cache.stretch(copy, most_tokens) < most_tokens:
            idle = (other for other in self._copies if other not in needed)
            last = (other for other in reversed(rest[1:]) if other in self._copies)
            if not self._forget_one(chain(idle, last)):
                return None
        return copy

    def _align(self, copy: Sequence, sequence: Sequence) -> None:
        """Give a copy its sequence's output; what it has computed counts up to the first difference."""
        own, drawn = copy.output_token_ids, sequence.output_token_ids
        agreed = max(0, len(own) - self._draft_tokens)  # only its own guesses can differ
        while agreed < min(len(own), len(drawn)) and own[agreed] == drawn[agreed]:
            agreed += 1
        place = len(sequence.request.prompt_token_ids) + agreed
        own[agreed:] = drawn[agreed:]
        copy.seen[place:] = sequence.seen[place:]
        # One at least is left to compute, which the next is drawn from: more may be there, of a step that was given up.
        copy.computed_tokens = min(copy.computed_tokens, place, copy.total_tokens - 1)
        copy.finish = None

    def _forget_one(self, candidates: Iterator[Sequence]) -> bool:
        """Forget the copy of the first candidate; False = there is none."""
        sequence = next(candidates, None)
        if sequence is not None:
            self._forget(sequence)
        return sequence is not None

    def _forget(self, sequence: Sequence) -> None:
        self._cache.free(self._copies.pop(sequence))


@dataclass(frozen=True, slots=True)
class _Resized:
    """A decoder with another number of rows that stand for nothing, as models of different sizes have them.

    Attributes:
        decoder: The draft model's.
        own_tokens: Its vocabulary.
        tokens: The vocabulary of the model that it drafts for.
    """

    decoder: Decoder
    own_tokens: int
    tokens: int

    @property
    def products(self) -> tuple[Projections, ...]:
        """See `Decoder.products`."""
        return self.decoder.products

    def hidden(self, token_ids: Tensor, positions: Tensor, ragged: StepAttention, adapters: AdapterRows) -> Tensor:
        """See `Decoder.hidden`."""
        return self.decoder.hidden(token_ids.clamp(max=self.own_tokens - 1), positions, ragged, adapters)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Decoder.logits`."""
        logits = self.decoder.logits(hidden)
        # Cut or filled up: padding may be negative.
        return pad(logits, (0, self.tokens - self.own_tokens), value=_NEVER).contiguous()
