"""Follows outputs through their constraints, and says which tokens may come next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from qwire.engine.constraint import Constraint
from qwire.engine.errors import InvalidRequest
from qwire.engine.grammar import grammar_of

_T = TypeVar("_T")

_LIMITS = LLParserLimits(max_grammar_size=100_000, verbose_errors=False)
"""They bound what compiling and each step may cost: what is beyond fails alone, and its batch mates do not wait."""

_MAX_MESSAGE_CHARACTERS = 300


class Matcher:
    """Follows one output through its constraint. Used from one thread at a time.

    It catches up with the output whenever it is asked, so preemption and recomputation do not concern it.

    Args:
        constraint: What the output must match.
        tokenizer: The model's vocabulary.
        eos_token_ids: Tokens that end a turn, at least one.

    Attributes:
        failure: Why it cannot go on; None = it can.

    Raises:
        InvalidRequest: The constraint cannot be compiled, or nothing matches it; names its field.
    """

    def __init__(self, constraint: Constraint, tokenizer: LLTokenizer, eos_token_ids: AbstractSet[int]) -> None:
        self.failure: InvalidRequest | None = None
        self._constraint = constraint
        self._eos_token_ids = sorted(eos_token_ids)
        self._opening = constraint.opening_token_id if constraint.after_token_id is not None else None
        self._begun = constraint.after_token_id is None or self._opening is not None
        self._followed = 0
        self._mask: bytes | None = None
        self._masked = -1  # how much was followed when the mask was made
        # Until the constraint begins: everything but the end of the turn.
        self._open = self._without_eos(b"\xff" * (-(-tokenizer.vocab_size // 32) * 4))
        self._matcher = LLMatcher(tokenizer, grammar_of(constraint), log_level=0, limits=_LIMITS)
        if self._allowed() is None:
            raise InvalidRequest(constraint.field, f"It cannot be used: {self._message()}.")

    def mask(self, output_token_ids: Sequence[int]) -> bytes | None:
        """Return which tokens may follow the output; None = the matcher failed, and `failure` says why.

        Args:
            output_token_ids: The whole output so far; what was followed before is not looked at again.

        Returns:
            One bit per token of the vocabulary, the lowest bit of a byte first, in whole 32-bit words.
        """
        try:
            mask = self._next() if self._follow(output_token_ids[self._followed :]) else None
            message = self._message() if mask is None else ""
        except BaseException as error:  # noqa: BLE001 - a panic of the library is no Exception
            mask, message = None, type(error).__name__
        if mask is None:
            where = f"after {len(output_token_ids)} tokens of output"
            self.failure = InvalidRequest(self._constraint.field, f"It cannot be followed further {where}: {message}.")
        return mask

    def forced(self, output_token_ids: Sequence[int]) -> list[int]:
        """Return the tokens that must follow the output, whatever the model says.

        Args:
            output_token_ids: The whole output so far.

        Returns:
            Each is the only one that `mask` allows in its place; empty = there is a choice, the turn must end, or the
            matcher failed.
        """
        mask = self.mask(output_token_ids)
        if mask is None or not self._begun or self._may_open or not _has_one_bit(mask):
            return []
        # Only now: the library answers wrongly where it has not made the mask of the same place before.
        return self._guarded(self._matcher.compute_ff_tokens) or []

    def allows(self, output_token_ids: Sequence[int], draft: Sequence[int]) -> int:
        """Return how many tokens of a draft may follow the output, at least.

        Args:
            output_token_ids: The whole output so far.
            draft: Guessed next tokens.
        """
        if self.mask(output_token_ids) is None:
            return 0
        opens = self._may_open and list(draft[:1]) == [self._opening]
        if self._begun and not opens:
            return self._guarded(lambda: self._matcher.validate_tokens(list(draft))) or 0
        for place, token_id in enumerate(draft):
            if token_id in self._eos_token_ids:
                return place
            if token_id == self._constraint.after_token_id:
                return place + 1
        return len(draft)

    @property
    def _may_open(self) -> bool:
        """Whether the next token says if anything comes in front of the constraint."""
        return self._opening is not None and self._followed == 0

    def _guarded(self, ask: Callable[[], _T]) -> _T | None:
        """Ask the library for what can be done without; None = it panicked, which the next mask will tell."""
        try:
            return ask()
        except BaseException:  # noqa: BLE001 - a panic of the library is no Exception
            return None

    def _follow(self, token_ids: Sequence[int]) -> bool:
        """Take the output's next tokens; False = the constraint does not allow them, or their turn has ended."""
        for token_id in token_ids:
            if token_id in self._eos_token_ids:
                return False
            if self._may_open and token_id == self._opening:
                self._begun = False
            elif not self._begun:
                self._begun = token_id == self._constraint.after_token_id
            elif not self._matcher.consume_token(token_id):
                return False
            self._followed += 1
        return True

    def _next(self) -> bytes | None:
        if not self._begun:
            return self._open
        if self._masked != self._followed:
            mask = self._allowed()
            if mask is not None and self._may_open:
                mask = self._with_opening(mask)
            self._mask, self._masked = mask, self._followed
        return self._mask

    def _allowed(self) -> bytes | None:
        """Return what the constraint allows next; None = nothing, or the library gave up."""
        if self._matcher.is_error():
            return None
        mask = self._matcher.compute_bitmask()
        # A grammar can name the end of the turn as one of its tokens; it ends the output all the same.
        if not self._matcher.is_accepting():
            mask = self._without_eos(mask)
        return mask if mask.count(0) < len(mask) else None

    def _with_opening(self, mask: bytes) -> bytes:
        changed = bytearray(mask)
        if self._opening is not None:
            changed[self._opening >> 3] |= 1 << (self._opening & 7)
        return bytes(changed)

    def _without_eos(self, mask: bytes) -> bytes:
        if not any(mask[token_id >> 3] >> (token_id & 7) & 1 for token_id in self._eos_token_ids):
            return mask
        changed = bytearray(mask)
        for token_id in self._eos_token_ids:
            changed[token_id >> 3] &= ~(1 << (token_id & 7))
        return bytes(changed)

    def _message(self) -> str:
        message = self._matcher.get_error().strip().removesuffix("<non-verbose/>").strip()
        return message[:_MAX_MESSAGE_CHARACTERS] or "nothing matches it"


def _has_one_bit(mask: bytes) -> bool:
    return mask.count(0) == len(mask) - 1 and max(mask).bit_count() == 1
