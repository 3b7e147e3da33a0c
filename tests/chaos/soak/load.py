"""Rounds of traffic of every kind, in a process of its own: `python -m tests.chaos.soak.load host:port seed`.

Reads a number of seconds per line, makes traffic for as long, and answers with a line of JSON when all of it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import string
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from qwire.client import (
    AsyncClient,
    Cancelled,
    ClientOptions,
    DeadlineExceeded,
    GenerationOptions,
    InvalidRequest,
    QwireError,
    Unavailable,
)
from tests.chaos.wire import Wire

WORKERS = 12
_ONCE = ClientOptions(retry=None, resume=None, channel_options=(("grpc.use_local_subchannel_pool", 1),))
_SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'


class OpenSpans(SpanProcessor):
    """Counts the spans that have begun and not ended."""

    def __init__(self) -> None:
        self.count = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        self.count += 1

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002
        self.count -= 1


class Traffic:
    """Calls of every kind, sized and ended at random.

    Args:
        target: Where the gateway listens.
        seed: Of all choices.

    Attributes:
        ended: Calls that ended as they had to, by kind.
        failures: Those that did not, by what they said.
    """

    def __init__(self, target: str, seed: int) -> None:
        self._target = target
        self._choose = random.Random(seed)  # noqa: S311 - a workload, no secret
        self._kinds: dict[Callable[[AsyncClient], Awaitable[None]], int] = {
            self.stream: 30,
            self.generate: 20,
            self.leave: 12,
            self.cancel_by_id: 8,
            self.deadline: 10,
            self.constrained: 6,
            self.count: 5,
            self.refused: 4,
            self.disconnect: 5,
        }
        self.ended: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Make traffic; return when all of it has ended."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(until))

    async def _work(self, until: float) -> None:
        async with AsyncClient(self._target, _ONCE) as client:
            while time.monotonic() < until:
                (kind,) = self._choose.choices(list(self._kinds), list(self._kinds.values()))
                try:
                    await kind(client)
                except QwireError as error:
                    self.failures[f"{kind.__name__}: {type(error).__name__}: {error}"] += 1
                else:
                    self.ended[kind.__name__] += 1

    async def stream(self, client: AsyncClient) -> None:
        await client.stream(self._prompt(), **self._options()).generation()

    async def generate(self, client: AsyncClient) -> None:
        await client.generate(self._prompt(), **self._options())

    async def leave(self, client: AsyncClient) -> None:
        """Begin a stream, and leave it somewhere."""
        async with client.stream(self._prompt(), **self._options()) as stream:
            events = self._choose.randint(0, 40)
            async for _ in stream:
                events -= 1
                if events < 0:
                    break

    async def cancel_by_id(self, client: AsyncClient) -> None:
        async with client.stream(self._prompt(), **self._options(least=100)) as stream:
            await anext(stream)
            await client.cancel(stream.generation_id)
            await _may_fail(stream.generation(), Cancelled)

    async def deadline(self, client: AsyncClient) -> None:
        """Ask for more than can come in time."""
        timeout_s = self._choose.uniform(0.001, 0.3)
        call = client.generate(self._prompt(), timeout_s=timeout_s, **self._options(least=100))
        await _may_fail(call, DeadlineExceeded)

    async def constrained(self, client: AsyncClient) -> None:
        """Ask for what a grammar of its own allows."""
        if self._choose.random() < 0.5:
            await client.generate(self._prompt(), json_schema=_SCHEMA, max_output_tokens=40)
        else:
            word = "".join(self._choose.choices(string.ascii_lowercase, k=8))
            await client.generate(self._prompt(), regex=f"{word}[0-9]{{1,20}}", max_output_tokens=40)

    async def count(self, client: AsyncClient) -> None:
        await client.count_tokens(self._prompt())
        await client.health()

    async def refused(self, client: AsyncClient) -> None:
        try:
            await client.generate(self._prompt(), temperature=-1.0)
        except InvalidRequest:
            return
        raise AssertionError("a negative temperature was taken")

    async def disconnect(self, client: AsyncClient) -> None:
        """Vanish in the middle: the server sees its connection reset."""
        del client
        async with Wire(self._target) as wire, AsyncClient(wire.target, _ONCE) as alone:
            stream = alone.stream(self._prompt(), **self._options(least=100))
            await anext(stream)
            wire.cut()
            await _may_fail(stream.generation(), Unavailable)

    def _prompt(self) -> str:
        length = min(int(self._choose.lognormvariate(4.5, 1.2)) + 1, 2200)
        return "".join(self._choose.choices(string.ascii_lowercase + " äß你🙂", k=length))[:length]

    def _options(self, least: int = 1) -> GenerationOptions:
        choose = self._choose
        options: GenerationOptions = {
            "max_output_tokens": max(least, min(int(choose.lognormvariate(3.0, 1.0)) + 1, 300)),
            "temperature": choose.choice((0.0, 1.0)),
            "seed": choose.getrandbits(60),
            "ignore_eos": True,
        }
        if choose.random() < 0.1:
            options["top_logprobs"] = 5
        if choose.random() < 0.1:
            options["stop_strings"] = ["".join(choose.choices(string.ascii_lowercase, k=2))]
        return options


async def _may_fail(call: Awaitable[object], kind: type[QwireError]) -> None:
    with contextlib.suppress(kind):
        await call


async def main() -> None:
    """Serve the lines of standard input."""
    target, seed = sys.argv[1:]
    spans, provider = OpenSpans(), TracerProvider()
    provider.add_span_processor(spans)
    trace.set_tracer_provider(provider)
    traffic = Traffic(target, int(seed))
    while line := await asyncio.to_thread(sys.stdin.readline):
        await traffic.run(float(line))
        gc.collect()  # gRPC's calls are cycles: what nobody can reach is no leak
        answer = {
            "ended": traffic.ended,
            "failures": traffic.failures,
            "tasks": len(asyncio.all_tasks()) - 1,  # this one
            "spans": spans.count,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
