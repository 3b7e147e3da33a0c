"""Random requests of every kind in one engine with little memory: each ends as it should, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import pytest

from qwire.engine.chunk import Finish, FinishReason, TokenChunk
from qwire.engine.constraint import ConstraintKind
from qwire.engine.draft_model import DraftModel
from qwire.engine.errors import (
    AdapterNotFound,
    DeadlineExceeded,
    GenerationCancelled,
    InvalidRequest,
    NumericalError,
    QueueFull,
)
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, TokenRequest
from tests.model.constrained import Text
from tests.support.log_lines import collected_log_lines
from tests.support.peft_adapter import write_adapter
from tests.support.random_request import ADAPTERS, MOST_TOKENS, OVERFLOWING, bad_request, random_request
from tests.support.random_schema import random_schema
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
WAVE_S = 300
"""No wave takes as long on the busiest machine: one that does is stuck."""
REPEATED = 3
"""How many of a wave are generated again."""


@dataclass
class Fate:
    """What its caller does to a request."""

    kind: str
    after_tokens: int = 0


@dataclass
class Output:
    """What came of a request."""

    token_ids: list[int] = field(default_factory=list[int])
    logprobs: int = 0
    prompt_logprobs: int = 0
    finish: Finish | None = None

    def add(self, request: TokenRequest, chunk: TokenChunk) -> None:
        assert bool(chunk.token_ids) != bool(chunk.prompt_logprobs)
        assert not (chunk.prompt_logprobs and self.token_ids), "the prompt came after output"
        self.token_ids += chunk.token_ids
        self.logprobs += len(chunk.logprobs)
        self.prompt_logprobs += len(chunk.prompt_logprobs)
        assert all(record is None or len(record.top) == request.prompt_logprobs for record in chunk.prompt_logprobs)
        assert all(len(record.top) == request.top_logprobs for record in chunk.logprobs)
        self.finish = chunk.finish


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = json.dumps([random_schema(seed) for seed in range(20)])
    return write_tiny_checkpoint(tmp_path_factory.mktemp("workload"), corpus=corpus, spare_tokens=21)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """More of them than an engine holds at once, one of which makes numbers that are not finite."""
    home = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(ADAPTERS):
        write_adapter(folder, home / name, seed)
    write_adapter(folder, home / OVERFLOWING, scale=1e30, target_modules=["gate_proj", "up_proj"])
    return home


class Workload:
    """Waves of requests against one engine, which is idle between them.

    Args:
        engine: The engine.
        text: Reads its tokens.
        vocabulary_tokens: Of its model.
    """

    def __init__(self, engine: LocalEngine, text: Text, vocabulary_tokens: int) -> None:
        self._engine = engine
        self._text = text
        self._vocabulary_tokens = vocabulary_tokens
        self._source = random.Random(4)  # noqa: S311 - the same workload each time
        self._finished: list[tuple[TokenRequest, Output]] = []
        self.requests = 0
        self.ends: Counter[str] = Counter()

    async def wave(self, most: int) -> None:
        """Run up to so many requests at once, and look at the engine when they have ended."""
        source = self._source
        async with asyncio.timeout(WAVE_S), asyncio.TaskGroup() as group:
            for _ in range(source.randint(1, most)):
                kinds = ("finish",) * 6 + ("leave", "cancel", "break off")
                fate = Fate(source.choice(kinds), source.choice((0, 1, 5, 20)))
                if source.random() < 0.05:
                    group.create_task(self._be_refused(bad_request(self.requests, source, self._vocabulary_tokens)))
                else:
                    request = random_request(self.requests, source, self._vocabulary_tokens)
                    group.create_task(self._live(request, fate))
                self.requests += 1
                if source.random() < 0.1:
                    await asyncio.sleep(source.choice((0.0, 0.005, 0.02)))
        await self._check_idle()
        for request, output in source.sample(self._finished, min(REPEATED, len(self._finished))):
            await self._repeat(request, output)
        self._finished.clear()

    async def _repeat(self, request: TokenRequest, output: Output) -> None:
        """Have it generated alone: it says the same."""
        again = Output()
        envelope = Envelope(f"{request.envelope.request_id} again")
        async for chunk in self._engine.generate(replace(request, envelope=envelope)):
            again.add(request, chunk)
        assert again.token_ids == output.token_ids, request
        assert (again.logprobs, again.prompt_logprobs) == (output.logprobs, output.prompt_logprobs)
        self.ends["repeated"] += 1

    async def _live(self, request: TokenRequest, fate: Fate) -> None:
        try:
            if fate.kind == "break off":
                async with asyncio.timeout(fate.after_tokens / 100):
                    await self._consume(request, fate)
            else:
                await self._consume(request, fate)
        except TimeoutError:
            self.ends["broken off"] += 1
        except GenerationCancelled:
            assert fate.kind == "cancel"
            self.ends["cancelled"] += 1
        except DeadlineExceeded:
            assert request.envelope.deadline_unix_ns is not None
            self.ends["late"] += 1
        except QueueFull:
            self.ends["refused"] += 1
        except NumericalError:
            assert request.adapter == OVERFLOWING
            self.ends["overflowed"] += 1

    async def _be_refused(self, request: TokenRequest) -> None:
        with pytest.raises((InvalidRequest, AdapterNotFound)):
            await anext(self._engine.generate(request))
        self.ends["invalid"] += 1

    async def _consume(self, request: TokenRequest, fate: Fate) -> None:
        output = Output()
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                output.add(request, chunk)
                if len(output.token_ids) < fate.after_tokens:
                    continue
                if fate.kind == "cancel":
                    await self._engine.cancel(request.envelope.request_id)
                elif fate.kind == "leave":
                    self.ends["left"] += 1
                    return
        assert request.adapter != OVERFLOWING
        self._check_finished(request, output)
        self.ends["finished"] += 1
        self._finished.append((request, output))

    def _check_finished(self, request: TokenRequest, output: Output) -> None:
        finish, count = output.finish, len(output.token_ids)
        assert finish is not None
        assert finish.cached_prompt_tokens <= len(request.prompt_token_ids)
        assert 1 <= count <= request.stop.max_output_tokens - len(request.output_token_ids)
        assert output.logprobs == (0 if request.top_logprobs is None else count)
        assert output.prompt_logprobs == (0 if request.prompt_logprobs is None else len(request.prompt_token_ids))
        if finish.reason is FinishReason.LENGTH:
            assert count == request.stop.max_output_tokens - len(request.output_token_ids)
        else:
            assert finish.stop_token_id == output.token_ids[-1]
            assert count + len(request.output_token_ids) >= request.stop.min_output_tokens
        if request.constraint is not None and finish.reason is FinishReason.END_OF_TURN:
            self.ends["matched"] += 1
            text = self._text.read(output.token_ids)
            match request.constraint.kind:
                case ConstraintKind.JSON_SCHEMA | ConstraintKind.JSON_OBJECT:
                    json.loads(text)
                case ConstraintKind.CHOICE:
                    assert text in request.constraint.choices
                case ConstraintKind.REGEX:
                    assert re.fullmatch(request.constraint.text, text)
                case ConstraintKind.GRAMMAR:
                    assert re.fullmatch(r"[1-9]\d{0,2}(\+[1-9]\d{0,2})*", text)

    async def _check_idle(self) -> None:
        """Look at everything that a request could have left behind."""
        engine = self._engine
        stats = await engine.stats()
        assert (stats.running, stats.waiting, stats.running_tokens, stats.waiting_tokens) == (0, 0, 0, 0)
        assert stats.kv_used_tokens == 0
        engine._cache.check_integrity()  # pyright: ignore[reportPrivateUsage] - only an idle engine's may be looked at
        assert not engine._streams  # pyright: ignore[reportPrivateUsage]
        assert not engine._preparation._under_way  # pyright: ignore[reportPrivateUsage]
        adapters = engine._adapters  # pyright: ignore[reportPrivateUsage]
        assert not adapters._lent  # pyright: ignore[reportPrivateUsage]
        assert not adapters._line  # pyright: ignore[reportPrivateUsage]
        assert not any(place.users or place.is_closed for place in adapters._places.values())  # pyright: ignore[reportPrivateUsage]
        drafter = engine._steps._drafter  # pyright: ignore[reportPrivateUsage]
        if isinstance(drafter, DraftModel):
            drafter.draft({})  # forgets those that ended
            assert drafter._cache.used_tokens == 0  # pyright: ignore[reportPrivateUsage]
            drafter._cache.check_integrity()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.timeout(0)  # each wave has a bound of its own
@pytest.mark.parametrize("mode", list(product(("none", "q8"), ("none", "prompt-lookup", "draft-model"))), ids="-".join)
async def test_random_requests_in_little_memory(
    folder: Path, adapters: Path, start_engine: StartEngine, pytestconfig: pytest.Config, mode: tuple[str, str]
) -> None:
    count: int = pytestconfig.option.engine_requests
    quantization, speculation = mode
    engine = await start_engine(
        folder,
        draft=folder if speculation == "draft-model" else None,
        quantization=quantization,
        speculation=speculation,
        lookup_least_tokens=1,
        kv_capacity_tokens=MOST_TOKENS + 20,
        page_tokens=8,
        max_running=8,
        max_waiting=60,
        max_step_tokens=32,
        adapters_dir=adapters,
        max_adapters=2,
    )
    workload = Workload(engine, Text(folder), (await engine.card()).vocabulary_tokens)
    with collected_log_lines() as lines:
        while workload.requests < count:
            await workload.wave(100)
    ends = workload.ends
    print(f"{workload.requests} requests: {dict(ends)}, {len(lines.of('generation_preempted'))} preemptions")  # noqa: T201
    assert lines.of("generation_preempted")
    assert not lines.of("engine_died")
    outcomes = ("finished", "left", "cancelled", "broken off", "late", "refused", "invalid", "overflowed")
    assert all(ends[end] for end in (*outcomes, "matched", "repeated"))
    assert sum(ends[end] for end in outcomes) == workload.requests
