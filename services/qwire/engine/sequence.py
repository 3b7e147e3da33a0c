"""One request on its way through the engine."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from hashlib import sha256

from qwire.engine.adapter import Adapter
from qwire.engine.chunk import Finish, FinishReason, Timings
from qwire.engine.errors import EngineError, NumericalError
from qwire.engine.matcher import Matcher
from qwire.engine.request import TokenRequest

_ROOT = sha256(b"base model").digest()
"""What the first page's key is chained to. Keys and values depend on weights and tokens; with an adapter, the root is
the adapter's."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's state. Owned by the scheduler; its facts are derived from the few things that change.

    Attributes:
        request: What was asked for.
        eos_token_ids: Tokens that end its turn; empty where the request ignores them.
        arrival: Its place in the order of arrival.
        arrived_unix_ns: When it entered the waiting queue.
        matcher: Follows its constraint; None = it has none.
        adapter: Applied to the model for it; None = the model as it is.
        output_token_ids: The output so far, what the request came with included.
        seen: Prompt and output once more, as an array of 64-bit integers: a tensor without a conversion each step.
        computed_tokens: Tokens whose keys and values are in the cache.
        scored_tokens: Prompt tokens whose log-probabilities are told, where the request asks; the first one has none.
        cached_prompt_tokens: Prompt tokens that it found in the cache before it computed them the first time.
        queued_unix_ns: When it entered the waiting queue the last time.
        served_unix_ns: When it was last computed or queued, or one of its priority was computed whose turn was before.
        level: Its priority, which rises while it is passed over.
        place: Its number among those that were given a place to run, in the order of that; None = it never was.
        preemptions: How often it lost its place or its keys and values to others, and went back to the queue.
        preempted_tokens: Prompt and output tokens that it had then, the last time.
        drafted_tokens: Tokens that were drafted for it, computed beside its next one.
        accepted_tokens: Those of them that were then drawn.
        scheduled_unix_ns: When its first step began; 0 = it waits.
        first_token_unix_ns: When its first own output token was drawn; 0 = none was.
        finish: How it ended well; None = it has not.
        failure: Why it ended otherwise; None = it has not.
    """

    request: TokenRequest
    eos_token_ids: frozenset[int]
    arrival: int
    arrived_unix_ns: int
    matcher: Matcher | None = None
    adapter: Adapter | None = None
    output_token_ids: list[int] = field(init=False)
    seen: array[int] = field(init=False)
    computed_tokens: int = 0
    scored_tokens: int = 1
    cached_prompt_tokens: int = 0
    queued_unix_ns: int = field(init=False)
    served_unix_ns: int = field(init=False)
    level: int = field(init=False)
    place: int | None = None
    preemptions: int = 0
    preempted_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    scheduled_unix_ns: int = 0
    first_token_unix_ns: int = 0
    finish: Finish | None = None
    failure: EngineError | None = None
    _page_keys: list[bytes] = field(default_factory=list[bytes], repr=False)

    def __post_init__(self) -> None:
        self.output_token_ids = list(self.request.output_token_ids)
        self.queued_unix_ns = self.served_unix_ns = self.arrived_unix_ns
        self.level = self.priority
        self.seen = array("q", (*self.request.prompt_token_ids, *self.output_token_ids))

    @property
    def request_id(self) -> str:
        """The generation's name."""
        return self.request.envelope.request_id

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.request.envelope.tenant

    @property
    def priority(self) -> int:
        """What was asked for: higher goes first, 0 is normal."""
        return self.request.envelope.priority

    @property
    def is_low(self) -> bool:
        """Whether it lives on what others leave."""
        return self.level < 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens so far."""
        return len(self.request.prompt_token_ids) + len(self.output_token_ids)

    @property
    def pending_tokens(self) -> int:
        """Tokens to compute before the next output token can be drawn: 1 = in decode, more = in prefill."""
        return self.total_tokens - self.computed_tokens

    @property
    def reusable_tokens(self) -> int:
        """Tokens, from the first one on, that need not be computed where their keys and values are in the cache."""
        request = self.request
        if request.prompt_logprobs is not None and self.scored_tokens < len(request.prompt_token_ids):
            return self.scored_tokens - 1
        return self.total_tokens - 1

    @property
    def limit_tokens(self) -> int:
        """Prompt and output tokens that it may grow to."""
        return len(self.request.prompt_token_ids) + self.request.stop.max_output_tokens

    @property
    def tokens_after_next(self) -> int:
        """Output tokens that its limit allows after the next one."""
        return self.limit_tokens - self.total_tokens - 1

    def is_late(self, now_unix_ns: int) -> bool:
        """Whether its deadline has passed."""
        deadline = self.request.envelope.deadline_unix_ns
        return deadline is not None and deadline <= now_unix_ns

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.finish is not None or self.failure is not None

    @property
    def no_token(self) -> EngineError:
        """Why no token could be drawn for it."""
        failure = self.matcher and self.matcher.failure
        return failure or NumericalError()

    @property
    def banned_token_ids(self) -> frozenset[int]:
        """Tokens that must not be drawn next."""
        if len(self.output_token_ids) >= self.request.stop.min_output_tokens:
            return frozenset()
        return self.eos_token_ids | self.request.stop.stop_token_ids

    def token_ids(self, start: int, length: int) -> list[int]:
        """Return `length` tokens of prompt and output from `start` on."""
        prompt = self.request.prompt_token_ids
        end = start + length
        output_start = max(0, start - len(prompt))
        return [*prompt[start:end], *self.output_token_ids[output_start : max(0, end - len(prompt))]]

    def unscored(self, start: int, length: int) -> range:
        """Return which of these computed positions say how likely a prompt token is that comes next and is not told."""
        request = self.request
        if request.prompt_logprobs is None:
            return range(0)
        return range(max(start, self.scored_tokens - 1), min(start + length, len(request.prompt_token_ids) - 1))

    def page_key(self, index: int, page_tokens: int) -> bytes:
        """Return the key of a page that is full: equal for two only where adapter and all tokens up to their ends are.

        Args:
            index: Which page, from 0.
            page_tokens: Tokens of a page; the same in every call.
        """
        keys = self._page_keys
        root = _ROOT if self.adapter is None else self.adapter.cache_root
        while len(keys) <= index:
            token_ids = array("Q", self.token_ids(len(keys) * page_tokens, page_tokens))
            keys.append(sha256((keys[-1] if keys else root) + token_ids.tobytes()).digest())
        return keys[index]

    def reuse(self, tokens: int) -> None:
        """Take note that the next tokens need not be computed, as their keys and values are in the cache."""
        before = min(self.computed_tokens, len(self.request.prompt_token_ids))
        self.computed_tokens += tokens
        if self.preemptions == 0:
            self.cached_prompt_tokens += min(self.computed_tokens, len(self.request.prompt_token_ids)) - before

    def preempt(self, now_unix_ns: int) -> None:
        """Go back to the queue: everything is computed again, the output like a prompt."""
        self.computed_tokens = 0
        self.preemptions += 1
        self.preempted_tokens = self.total_tokens
        self.queued_unix_ns = self.served_unix_ns = now_unix_ns

    def append(self, token_id: int, now_unix_ns: int) -> None:
        """Take the next output token, and end with it where it is the last."""
        self.output_token_ids.append(token_id)
        self.seen.append(token_id)
        self.first_token_unix_ns = self.first_token_unix_ns or now_unix_ns
        reason = self._reason(token_id)
        if reason is None:
            return
        timings = Timings(self.arrived_unix_ns, self.scheduled_unix_ns, self.first_token_unix_ns, now_unix_ns)
        stop_token_id = None if reason is FinishReason.LENGTH else token_id
        self.finish = Finish(
            reason,
            timings,
            stop_token_id,
            self.cached_prompt_tokens,
            self.drafted_tokens,
            self.accepted_tokens,
            self.preemptions,
        )

    def _reason(self, token_id: int) -> FinishReason | None:
        if token_id in self.request.stop.stop_token_ids:
            return FinishReason.STOP_TOKEN
        if token_id in self.eos_token_ids:
            return FinishReason.END_OF_TURN
        if len(self.output_token_ids) >= self.request.stop.max_output_tokens:
            return FinishReason.LENGTH
        return None
