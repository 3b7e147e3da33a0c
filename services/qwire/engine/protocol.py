"""The seam between text and tokens: what every engine offers, wherever it runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from qwire.engine.chunk import TokenChunk
from qwire.engine.request import SamplingParams, TokenRequest


@dataclass(frozen=True, slots=True)
class QuantizationFacts:
    """How the weights are held.

    Attributes:
        method: `none`, `q8`, `int8`, `nf4` or `fp4`.
        bits: Bits per quantized weight, scales not counted.
        compute_dtype: Type of the matrix products, such as `float32`.
        double_quantization: Whether the scales of 4-bit weights are quantized as well.
        skipped_modules: Modules left in the compute type.
        source_format: Quantization of the published weights file, such as `Q4_K_M`; empty = none.
    """

    method: str
    bits: int
    compute_dtype: str
    double_quantization: bool = False
    skipped_modules: tuple[str, ...] = ()
    source_format: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a served model is; constant for the life of an engine.

    Attributes:
        model_id: The id that requests name.
        revision: Revision of the weights.
        architecture: Such as `Qwen2ForCausalLM`.
        parameters: Weights in all.
        vocabulary_tokens: Token ids are below it.
        context_tokens: Tokens of prompt and output together.
        max_output_tokens: The most output tokens that a request may ask for.
        default_max_output_tokens: Output tokens where a request does not say.
        eos_token_ids: Tokens that end a turn.
        default_sampling: What an unset sampling field means; its seed has no meaning.
        quantization: How the weights are held.
        weights_sha256: Digest of the weights manifest, hexadecimal.
        tokenizer_sha256: Digest of the tokenizer file, hexadecimal.
        constraints: Whether an output can be made to match a constraint.
        adapters: Whether a request may name an adapter.
    """

    model_id: str
    revision: str
    architecture: str
    parameters: int
    vocabulary_tokens: int
    context_tokens: int
    max_output_tokens: int
    default_max_output_tokens: int
    eos_token_ids: frozenset[int]
    default_sampling: SamplingParams
    quantization: QuantizationFacts
    weights_sha256: str = ""
    tokenizer_sha256: str = ""
    constraints: bool = False
    adapters: bool = False


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter that requests may name.

    Attributes:
        adapter_id: Its name.
        rank: Of its changes; where they differ, the largest one once it is loaded. 0 = not known.
        loaded: Whether it is in memory, as its files are now.
        sha256: Digest of its files, hexadecimal; empty = it is not loaded.
        problem: Why it cannot be applied, as far as that is known before it is loaded; empty = nothing is.
    """

    adapter_id: str
    rank: int
    loaded: bool = False
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at an engine's load and health, taken between two steps.

    Attributes:
        steps: Steps run since the start; stands still only when there is nothing to do.
        running: Generations in prefill or decode.
        waiting: Generations in the waiting queue, those included that were running and lost their KV cache to others.
        waiting_capacity: Bound of the waiting queue.
        running_tokens: Prompt and output tokens held by running generations.
        waiting_tokens: Prompt and output-limit tokens of waiting generations.
        kv_used_tokens: Tokens that the pages of running generations hold, shared pages once. Pages that are only kept
            for reuse do not count: whoever needs them gets them.
        kv_capacity_tokens: Tokens that the KV cache holds.
        oldest_wait_s: The longest time that one in the queue has been there, seconds; 0 = nobody waits.
        decode_tokens_per_s: Output tokens per second of one running generation, mean over the last minute; None =
            nothing decoded in it.
        memory_used_bytes: Memory in use, of the accelerator, or of the machine where there is none.
        memory_total_bytes: Memory in all, likewise.
        non_finite_weights: Weights that are NaN or infinite, counted once after loading.
        replicas: Engines that this look covers. 0 = none runs, and the next request starts one.
        drafted_tokens: Output tokens guessed since the start and computed ahead, those that constraints force included.
        accepted_tokens: Those of them that were then drawn, so that they took no step of their own.
    """

    steps: int
    running: int
    waiting: int
    waiting_capacity: int
    running_tokens: int
    waiting_tokens: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    oldest_wait_s: float
    decode_tokens_per_s: float | None
    memory_used_bytes: int
    memory_total_bytes: int
    non_finite_weights: int
    replicas: int = 1
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Engine(Protocol):
    """Turns prompt tokens into output tokens, many requests at a time.

    Contract of every implementation:
    - `generate` may be called any number of times at once, from one event loop.
    - Closing the iterator early (`aclose`, or cancelling the task that iterates) ends the generation and frees what
      it holds within two steps; nothing else has to be called.
    - Output does not depend on what else runs, beyond floating-point rounding.
    """

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Generate the tokens that follow `request.prompt_token_ids + request.output_token_ids`.

        The first token leaves at once; later ones are joined into larger chunks while the consumer is busy, so that
        no token is ever lost and a slow consumer never slows the engine.

        Raises (at the first step of the iteration, or where it happens):
            InvalidRequest: A token id is not in the vocabulary, or the token lists are of impossible length; or the
                constraint cannot be used, which may turn out late.
            AdapterNotFound: There is no adapter of this name.
            AdapterUnusable: The adapter cannot be applied to the model.
            ContextLengthExceeded: Prompt and `max_output_tokens` exceed the context.
            CapacityExceeded: They exceed the KV cache.
            QueueFull: The waiting queue has no place for it, or there are too many that wait for an adapter.
            DeadlineExceeded: The envelope's deadline passed, in the queue or later.
            DeadlineUnattainable: Its first token cannot come before the deadline.
            GenerationCancelled: `cancel` was called with the request's id. TakenBack: with `only_waiting`.
            NumericalError: The logits were not finite.
            EngineUnavailable: The engine is stopped or died.
        """
        ...

    async def cancel(self, request_id: str, *, only_waiting: bool = False) -> bool:
        """End the generation of this id, whoever iterates it. False = no such generation waits or runs.

        Args:
            request_id: Its name.
            only_waiting: Not if anything has been computed for it. It fails with TakenBack then.
        """
        ...

    async def card(self) -> ModelCard:
        """Return what the model is.

        Raises:
            EngineUnavailable: The model is not loaded, or the engine died.
        """
        ...

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the adapters that there are now, in order of their names.

        Raises:
            EngineUnavailable: The engine is stopped or died.
        """
        ...

    async def stats(self) -> EngineStats:
        """Return the present load and health.

        Raises:
            EngineUnavailable: The engine is stopped or died.
        """
        ...

    async def close(self) -> None:
        """Stop: running generations end with EngineUnavailable. Idempotent."""
        ...
