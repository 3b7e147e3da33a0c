"""What an engine is asked for: token ids, how to sample, when to stop, and the envelope of the call."""

from __future__ import annotations

from dataclasses import dataclass, field

from qwire.engine.constraint import Constraint

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIASES = 300
MAX_LOGIT_BIAS = 100


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn. Applied in the order of the fields; the defaults are greedy and leave all else off.

    Attributes:
        repetition_penalty: Divides positive and multiplies negative logits of tokens in the prompt or the output;
            range (0, 10], 1 = off. Source: Keskar et al. 2019 (CTRL), as in transformers.
        presence_penalty: Subtracted from the logit of each token in the output; range [-2, 2], 0 = off.
        frequency_penalty: Subtracted once per occurrence in the output; range [-2, 2], 0 = off.
        logit_bias: Pairs of a token id and what is added to its logit; range [-100, 100]. At most 300, each token once.
        temperature: Divides the logits; range [0, 10]; 0 = greedy, and what follows has no effect.
        top_k: Keeps the k most likely tokens; 0 = off.
        top_p: Keeps the smallest set of most likely tokens whose probability reaches p; range (0, 1], 1 = off.
        min_p: Drops tokens less likely than min_p times the most likely one; range [0, 1], 0 = off.
        seed: Seed of the draw, 0 <= seed < 2**64. A token is a function of (logits, seed, output position) only.
    """

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StopParams:
    """When a generation ends. Counts include output tokens that the request came with.

    Attributes:
        max_output_tokens: The most output tokens, at least 1.
        min_output_tokens: Neither an end-of-sequence nor a stop token is drawn before this many output tokens.
        stop_token_ids: Tokens that end the output; the token itself is part of it.
        ignore_eos: Go on after the model's end-of-sequence tokens.
    """

    max_output_tokens: int
    min_output_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who asks, how urgently, and under which trace. Travels with the request through every process.

    Attributes:
        request_id: Names the generation, unique for all time.
        priority: Higher goes first; 0 is normal, 1 the highest. Ties: the tenant with the fewest tokens, then arrival.
        deadline_unix_ns: When the answer is worth nothing any more, nanoseconds since the epoch; None = never.
        traceparent: W3C trace context of the caller's span; None = no trace.
        tracestate: W3C trace state; None = none.
        tenant: Who shares fairly with others; empty = nobody in particular.
        admitted: The request was accepted before, here or elsewhere, and goes on: no bound of a queue refuses it. Where
            it has output already, it goes before what has not begun.
        is_probe: A health check asks, no caller: it is no load that replicas would be added or kept for.
    """

    request_id: str
    priority: int = 0
    deadline_unix_ns: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    tenant: str = ""
    admitted: bool = False
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One generation: a prompt to continue, and how.

    Attributes:
        prompt_token_ids: The prompt, at least one token.
        envelope: Who asks.
        stop: When it ends.
        sampling: How tokens are drawn.
        output_token_ids: Output that already exists (a resumed or failed-over generation); only what follows it is
            generated and reported. Fewer than `stop.max_output_tokens`.
        top_logprobs: Report log-probabilities: of each output token and of this many most likely ones at its position;
            range [0, 20]. None = report none.
        prompt_logprobs: Report the same of each prompt token, given those before it; range [0, 20]. Then no computation
            of the prompt is reused that has not been reported on. None = report none.
        constraint: What the output must match; not with `stop.min_output_tokens` or `stop.ignore_eos`, which would have
            it go on where nothing may follow. None = anything.
        adapter: The name of an adapter to apply to the model; empty = the model as it is.
        adapter_sha256: Digest that its files must have, as the chunks of the output so far told it; empty = they are
            taken as they are now.
    """

    prompt_token_ids: tuple[int, ...]
    envelope: Envelope
    stop: StopParams
    sampling: SamplingParams = field(default_factory=SamplingParams)
    output_token_ids: tuple[int, ...] = ()
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    adapter: str = ""
    adapter_sha256: str = ""
