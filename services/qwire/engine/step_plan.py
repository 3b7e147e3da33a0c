"""Which tokens of which sequence a step computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwire.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledTokens:
    """Tokens of one sequence in one step.

    Attributes:
        sequence: Whose.
        start: Position of the first one.
        length: How many, at least 1.
        samples: Whether they are all that the next output token needs, so that it is drawn in this step.
        pages: Where the sequence's tokens lie, from its first one to the last one of these and of the draft.
        draft: Guesses of its next tokens, computed beside these: each counts only where it is what is drawn.
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool
    pages: tuple[int, ...]
    draft: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Position behind the last one, the draft not counted."""
        return self.start + self.length

    @property
    def rows(self) -> int:
        """How many tokens the step computes for the sequence: these and those of the draft."""
        return self.length + len(self.draft)

    @property
    def is_decode(self) -> bool:
        """Whether it is one token, with which the next one can be drawn."""
        return self.samples and self.length == 1

    def behind(self, token_id: int) -> ScheduledTokens | None:
        """Return what this step has computed behind the drawn token; None = nothing, as it is not the one drafted."""
        if self.draft[:1] != (token_id,):
            return None
        return replace(self, start=self.end, length=1, draft=self.draft[1:])


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the model.

    Attributes:
        scheduled: What to compute, each sequence at most once.
        preempted: Sequences that lost their KV cache for it and wait again.
        spare_tokens: How many more tokens it may have.
    """

    scheduled: tuple[ScheduledTokens, ...]
    preempted: tuple[Sequence, ...] = ()
    spare_tokens: int = 0

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get an output token, in the plan's order."""
        return [tokens.sequence for tokens in self.scheduled if tokens.samples]

    @property
    def is_plain_decode(self) -> bool:
        """Whether each sequence has one token and no adapter."""
        return all(tokens.rows == 1 and tokens.sequence.adapter is None for tokens in self.scheduled)

    @property
    def draftable(self) -> dict[Sequence, int]:
        """The sequences in decode for which there is room in the step, and the most tokens that a draft may have."""
        decoding = (tokens.sequence for tokens in self.scheduled if tokens.is_decode)
        rooms = {sequence: min(self.spare_tokens, sequence.tokens_after_next) for sequence in decoding}
        return {sequence: room for sequence, room in rooms.items() if room > 0}
