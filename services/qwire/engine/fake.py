"""An engine without a model, for tests of everything around it."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from qwire.engine.chunk import MAX_PROMPT_RECORDS, Finish, FinishReason, Timings, TokenChunk, TokenLogprobs
from qwire.engine.errors import (
    AdapterNotFound,
    EngineUnavailable,
    GenerationCancelled,
    QueueFull,
    TakenBack,
)
from qwire.engine.fake_generation import FakeGeneration
from qwire.engine.protocol import AdapterInfo, EngineStats, ModelCard, QuantizationFacts
from qwire.engine.request import SamplingParams, TokenRequest

Script = Callable[[TokenRequest], Sequence[int]]
"""The output of a request, whole, as if nothing had been generated yet; `max_output_tokens` cuts it."""


def fake_card(model_id: str = "fake", *, vocabulary_tokens: int = 151_936, context_tokens: int = 4096) -> ModelCard:
    """Return a plausible card for a fake engine."""
    return ModelCard(
        model_id=model_id,
        revision="fake",
        architecture="FakeForCausalLM",
        parameters=1,
        vocabulary_tokens=vocabulary_tokens,
        context_tokens=context_tokens,
        max_output_tokens=context_tokens - 1,
        default_max_output_tokens=256,
        eos_token_ids=frozenset({151_645}),
        default_sampling=SamplingParams(temperature=0.7, top_k=20, top_p=0.8),
        quantization=QuantizationFacts(method="none", bits=32, compute_dtype="float32"),
    )


class FakeEngine:
    """Plays scripted tokens at a fixed pace, with the contract of a real engine.

    It follows no constraint, and its card says so unless a test gives it another one: then it plays its script all the
    same, and what it was asked for is in `requests`.

    Args:
        script: Gives each request's output; an end-of-sequence token in it ends the generation. Default: the prompt,
            repeated for ever.
        card: The model to pretend to be.
        step_s: Time between two tokens, seconds; 0 = as fast as the event loop turns.
        max_running: Generations at once; more wait, in order of arrival.
        max_waiting: Bound of the queue; more are refused with QueueFull.
        fail_after: Raise `failure` after this many output tokens; None = never. May be set later.
        failure: What to raise then. May be set later.

    Attributes:
        started: Ids of requests whose iteration began, in order.
        ended: Ids of requests that ended, for whatever reason, in order.
        requests: The requests themselves, in the order of `started`.
        decode_tokens_per_s: What `stats` reports; None = nothing decoded lately.
        memory_used_bytes: What `stats` reports, of 4 bytes in all.
        non_finite_weights: What `stats` reports.
        adapter_infos: What `adapters` reports. A request with another adapter is refused; one of these changes nothing.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        card: ModelCard | None = None,
        step_s: float = 0.0,
        max_running: int = 16,
        max_waiting: int = 64,
        fail_after: int | None = None,
        failure: BaseException | None = None,
    ) -> None:
        self._script = script or _echo
        self._card = card or fake_card()
        self._step_s = step_s
        self._max_running = max_running
        self._max_waiting = max_waiting
        self.fail_after = fail_after
        self.failure = failure or EngineUnavailable()
        self._waiting: dict[str, FakeGeneration] = {}
        self._running: dict[str, FakeGeneration] = {}
        self._closed = False
        self._steps = 0
        self.started: list[str] = []
        self.ended: list[str] = []
        self.requests: list[TokenRequest] = []
        self.decode_tokens_per_s: float | None = None
        self.memory_used_bytes = 1
        self.non_finite_weights = 0
        self.adapter_infos: tuple[AdapterInfo, ...] = ()

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Play the script from where `request.output_token_ids` ends."""
        if self._closed:
            raise EngineUnavailable
        if request.adapter and request.adapter not in {info.adapter_id for info in self.adapter_infos}:
            raise AdapterNotFound(request.adapter)
        is_full = len(self._running) >= self._max_running and len(self._waiting) >= self._max_waiting
        if is_full and not request.envelope.admitted:
            raise QueueFull(retry_after_s=1.0)
        generation = FakeGeneration(request)
        request_id = request.envelope.request_id
        self._waiting[request_id] = generation
        self.started.append(request_id)
        self.requests.append(request)
        self._admit()
        try:
            await generation.wait_admitted()
            async for chunk in self._play(generation):
                yield chunk
        finally:
            self._waiting.pop(request_id, None)
            self._running.pop(request_id, None)
            self.ended.append(request_id)
            self._admit()

    async def cancel(self, request_id: str, *, only_waiting: bool = False) -> bool:
        """End the generation of this id."""
        generation = self._waiting.get(request_id)
        if generation is None and not only_waiting:
            generation = self._running.get(request_id)
        if generation is None or generation.error is not None:
            return False
        generation.fail(TakenBack() if only_waiting else GenerationCancelled())
        return True

    async def card(self) -> ModelCard:
        """Return the card given at construction."""
        if self._closed:
            raise EngineUnavailable
        return self._card

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return `adapter_infos`."""
        if self._closed:
            raise EngineUnavailable
        return self.adapter_infos

    async def stats(self) -> EngineStats:
        """Return the present load."""
        if self._closed:
            raise EngineUnavailable
        return EngineStats(
            steps=self._steps,
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_capacity=self._max_waiting,
            running_tokens=0,
            waiting_tokens=0,
            kv_used_tokens=0,
            kv_capacity_tokens=1,
            oldest_wait_s=0.0,
            decode_tokens_per_s=self.decode_tokens_per_s,
            memory_used_bytes=self.memory_used_bytes,
            memory_total_bytes=4,
            non_finite_weights=self.non_finite_weights,
        )

    async def close(self) -> None:
        """Refuse everything from now on and end what runs."""
        self._closed = True
        for generation in (*self._running.values(), *self._waiting.values()):
            generation.fail(EngineUnavailable())

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            request_id = next(iter(self._waiting))
            generation = self._running[request_id] = self._waiting.pop(request_id)
            generation.admit()

    async def _play(self, generation: FakeGeneration) -> AsyncGenerator[TokenChunk, None]:
        request = generation.request
        scheduled = time.time_ns()
        first = 0
        for chunk in _prompt_chunks(request):
            await generation.sleep(self._step_s)
            yield replace(chunk, adapter_sha256=self._adapter_sha256(request))
        output = self._output(request)
        for position in range(len(request.output_token_ids), len(output)):
            if self.fail_after is not None and position >= self.fail_after:
                raise self.failure
            await generation.sleep(self._step_s)
            self._steps += 1
            now = time.time_ns()
            timings = Timings(generation.arrived_unix_ns, scheduled, first or now, now)
            is_last = position == len(output) - 1
            finish = self._finish(request, output, timings) if is_last else None
            logprobs = _logprobs(request, output[position])
            chunk = TokenChunk((output[position],), finish, None if first else timings, logprobs)
            yield chunk if first else replace(chunk, adapter_sha256=self._adapter_sha256(request))
            first = first or now

    def _adapter_sha256(self, request: TokenRequest) -> str:
        return next((info.sha256 for info in self.adapter_infos if info.adapter_id == request.adapter), "")

    def _output(self, request: TokenRequest) -> Sequence[int]:
        output = list(self._script(request))[: request.stop.max_output_tokens]
        for position, token_id in enumerate(output):
            if position + 1 >= request.stop.min_output_tokens and self._ends(request, token_id):
                return output[: position + 1]
        return output

    def _ends(self, request: TokenRequest, token_id: int) -> bool:
        is_eos = token_id in self._card.eos_token_ids and not request.stop.ignore_eos
        return is_eos or token_id in request.stop.stop_token_ids

    def _finish(self, request: TokenRequest, output: Sequence[int], timings: Timings) -> Finish:
        last = output[-1]
        if last in request.stop.stop_token_ids:
            return Finish(FinishReason.STOP_TOKEN, timings, last)
        if last in self._card.eos_token_ids and not request.stop.ignore_eos:
            return Finish(FinishReason.END_OF_TURN, timings, last)
        return Finish(FinishReason.LENGTH, timings)


def _logprobs(request: TokenRequest, token_id: int) -> tuple[TokenLogprobs, ...]:
    return () if request.top_logprobs is None else (_record(token_id, request.top_logprobs),)


def _prompt_chunks(request: TokenRequest) -> list[TokenChunk]:
    if request.prompt_logprobs is None:
        return []
    records = (None, *(_record(token_id, request.prompt_logprobs) for token_id in request.prompt_token_ids[1:]))
    pieces = (records[begin : begin + MAX_PROMPT_RECORDS] for begin in range(0, len(records), MAX_PROMPT_RECORDS))
    return [TokenChunk((), prompt_logprobs=piece) for piece in pieces]


def _record(token_id: int, top: int) -> TokenLogprobs:
    """Pretend that the token has half of the probability, the one after it half of the rest, and so on."""
    return TokenLogprobs(-math.log(2), tuple((token_id + place, -math.log(2) * (place + 1)) for place in range(top)))


def _echo(request: TokenRequest) -> Sequence[int]:
    prompt = request.prompt_token_ids
    return [prompt[position % len(prompt)] for position in range(request.stop.max_output_tokens)]
