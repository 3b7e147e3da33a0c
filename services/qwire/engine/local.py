"""The engine of this process."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from qwire.engine.adapter_cache import AdapterCache
from qwire.engine.adapter_folder import AdapterFolder
from qwire.engine.adapter_loader import AdapterLoader
from qwire.engine.cache import KVCacheManager
from qwire.engine.card import model_card
from qwire.engine.chunk import TokenChunk
from qwire.engine.config import EngineConfig
from qwire.engine.delivery import Delivery
from qwire.engine.errors import EngineUnavailable, GenerationCancelled, InvalidRequest, TakenBack
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel, load_model, thread_count
from qwire.engine.matcher_factory import MatcherFactory
from qwire.engine.memory import Memory
from qwire.engine.preparation import Preparation
from qwire.engine.protocol import AdapterInfo, EngineStats, ModelCard
from qwire.engine.request import TokenRequest
from qwire.engine.runner import ModelRunner
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.speculation import load_draft_model, make_drafter
from qwire.engine.step_loop import StepLoop
from qwire.engine.stream import TokenStream
from qwire.engine.validation import check_request
from qwire.models.checkpoint import Checkpoint


class LocalEngine:
    """Runs a transformers model in this process, many generations at a time; see `Engine` for the contract.

    All methods belong to the event loop in which the engine was started; the model runs in a thread of its own.

    Example:
        ```python
        engine = await LocalEngine.start(checkpoint, EngineConfig())
        async for chunk in engine.generate(request):
            ...
        await engine.close()
        ```

    Args:
        loaded: The model.
        card: What it is.
        config: How the engine runs.
        matchers: Makes the matchers of its constraints.
        draft: The draft model, where the configuration speculates with one.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        card: ModelCard,
        config: EngineConfig,
        matchers: MatcherFactory,
        draft: LoadedModel | None = None,
    ) -> None:
        self._loaded = loaded
        self._card = card
        self._config = config
        self._adapters = AdapterCache(
            AdapterFolder(config.adapters_dir),
            AdapterLoader(loaded).load,
            capacity=config.max_adapters,
            max_waiting=config.max_waiting,
        )
        self._preparation = Preparation(matchers, self._adapters)
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, TokenStream] = {}
        self._arrivals = itertools.count()
        self._ended = asyncio.Event()
        pages = _kv_pages(loaded, draft, card, config)
        self._cache = KVCacheManager(pages, loaded.page_tokens, prefix_reuse=config.prefix_reuse)
        # One page more than sequences are given: replayed steps write there what belongs to none.
        self._runner = ModelRunner(loaded, KVPool(loaded.kv_shape, pages + 1, loaded.page_tokens))
        self._steps = StepLoop(
            self._runner,
            Scheduler(
                self._cache,
                max_running=config.max_running,
                max_step_tokens=config.max_step_tokens,
                aging_s=config.priority_aging_s,
            ),
            make_drafter(config, loaded, draft, pages),
            threads=thread_count(config),
            config=config,
            deliver=lambda deliveries: self._call_soon(lambda: self._deliver(deliveries)),
            over=lambda: self._call_soon(self._end),
        )

    @classmethod
    async def start(cls, checkpoint: Checkpoint, config: EngineConfig, draft: Checkpoint | None = None) -> LocalEngine:
        """Load a checkpoint and start the engine.

        Args:
            checkpoint: The model.
            config: How it runs.
            draft: The model that drafts, for `speculation="draft-model"` only; of the same vocabulary, and smaller.

        Raises:
            UnsupportedCheckpoint: The folder holds nothing that this engine can run.
            ValueError: The configuration does not fit the device, the model, the draft model or the memory, or the
                quantization fails the quality gate.
        """
        # In a thread that ends: the OpenMP threads of one that lives on would be counted beside those of the steps, and
        # where there are more of them than cores, they sleep between any two products instead of waiting awake.
        with ThreadPoolExecutor(1, "qwire-load") as loader:
            load = partial(
                *(load_model, checkpoint.folder, checkpoint.source_format, config),
                weights_sha256=checkpoint.weights_sha256,
            )
            loaded = await asyncio.get_running_loop().run_in_executor(loader, load)
            load_draft = partial(load_draft_model, draft, config, checkpoint, loaded)
            drafting = await asyncio.get_running_loop().run_in_executor(loader, load_draft)
        card = model_card(checkpoint, loaded, config)
        engine = cls(loaded, card, config, MatcherFactory(checkpoint.folder / "tokenizer.json", card, config), drafting)
        try:
            await asyncio.to_thread(engine._runner.record_decode, config, card.context_tokens)
        except BaseException:
            await engine.close()
            raise
        return engine

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """Generate the tokens that follow the request's; see `Engine.generate`."""
        self._check_available()
        check_request(request, self._card, self._cache.capacity_tokens)
        request_id = request.envelope.request_id
        if request_id in self._streams or request_id in self._preparation:
            raise InvalidRequest("request_id", f"A generation with the id {request_id!r} runs already.")
        async with self._preparation.of(request) as prepared:
            eos_token_ids = frozenset[int]() if request.stop.ignore_eos else self._card.eos_token_ids
            arrival = next(self._arrivals), time.time_ns()
            sequence = Sequence(request, eos_token_ids, *arrival, prepared.matcher, prepared.adapter)
            self._steps.submit(sequence)
            stream = self._streams[request_id] = TokenStream(sequence)
            try:
                while True:
                    chunk = await stream.next()
                    yield chunk
                    if chunk.finish is not None:
                        return
            finally:
                del self._streams[request_id]
                self._steps.abort(request_id, GenerationCancelled())

    async def cancel(self, request_id: str, *, only_waiting: bool = False) -> bool:
        """End the generation of this id before the next step; False = it is not live."""
        if only_waiting:
            stream = self._streams.get(request_id)
            if stream is None or stream.sequence.scheduled_unix_ns:
                return False
        elif self._preparation.cancel(request_id):
            return True
        failure = TakenBack() if only_waiting else GenerationCancelled()
        if not self._steps.abort(request_id, failure):
            return False
        self._streams[request_id].fail(failure)
        return True

    async def card(self) -> ModelCard:
        """Return what the model is."""
        self._check_available()
        return self._card

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the adapters that there are now."""
        self._check_available()
        return await self._adapters.infos()

    async def stats(self) -> EngineStats:
        """Return the present load and health."""
        self._check_available()
        load = self._steps.load()
        memory = Memory.of(self._loaded.device)
        return EngineStats(
            steps=load.steps,
            running=load.running,
            waiting=load.waiting,
            waiting_capacity=self._config.max_waiting,
            running_tokens=load.running_tokens,
            waiting_tokens=load.waiting_tokens,
            kv_used_tokens=self._cache.used_tokens,
            kv_capacity_tokens=self._cache.capacity_tokens,
            oldest_wait_s=load.oldest_wait_s,
            decode_tokens_per_s=load.decode_tokens_per_s,
            memory_used_bytes=memory.used_bytes,
            memory_total_bytes=memory.total_bytes,
            non_finite_weights=self._loaded.non_finite_weights,
            drafted_tokens=load.drafted_tokens,
            accepted_tokens=load.accepted_tokens,
        )

    async def close(self) -> None:
        """Stop after the present step: running generations end with EngineUnavailable. Idempotent."""
        self._steps.close()
        await self._ended.wait()
        self._steps.join()

    def _check_available(self) -> None:
        if self._ended.is_set():
            raise EngineUnavailable

    def _call_soon(self, callback: Callable[[], None]) -> None:
        """Call back in the event loop, from the worker thread."""
        with suppress(RuntimeError):  # the event loop was closed before the engine: nobody listens any more
            self._loop.call_soon_threadsafe(callback)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            stream = self._streams.get(delivery.sequence.request_id)
            if stream is None or stream.sequence is not delivery.sequence:
                continue  # its consumer has left, and may have come again under the same id
            if delivery.failure is not None:
                stream.fail(delivery.failure)
                continue
            stream.put_prompt(delivery.prompt_logprobs)
            if delivery.token is not None:
                stream.put(delivery.token.token_id, delivery.finish, delivery.token.logprobs)

    def _end(self) -> None:
        self._ended.set()
        self._preparation.close()
        for stream in self._streams.values():
            stream.fail(EngineUnavailable())


def _kv_pages(loaded: LoadedModel, draft: LoadedModel | None, card: ModelCard, config: EngineConfig) -> int:
    if config.kv_capacity_tokens is not None:
        return math.ceil(config.kv_capacity_tokens / loaded.page_tokens)
    # Half of what is left: the other half is for activations, and for whoever shares the machine.
    bytes_per_token = sum(model.kv_shape.bytes_per_token for model in (loaded, draft) if model is not None)
    affordable = Memory.of(loaded.device).free_bytes // 2 // bytes_per_token
    if affordable <= max(card.default_max_output_tokens, loaded.page_tokens):
        raise ValueError(
            f"the memory left on {loaded.device} holds {affordable} tokens of KV cache, less than a request of "
            f"default_max_output_tokens ({card.default_max_output_tokens}) needs"
        )
    return min(affordable // loaded.page_tokens, config.max_running * -(-card.context_tokens // loaded.page_tokens))
