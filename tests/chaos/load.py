"""Clients that stream without a pause while faults strike, and what became of each stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwire.client import (
    AsyncClient,
    ClientOptions,
    Generation,
    GenerationOptions,
    QwireError,
    ResumeOptions,
    Unavailable,
)
from tests.chaos.oracle import Verdict, compare

_LONG: GenerationOptions = {"max_output_tokens": 600, "reasoning": False, "ignore_eos": True}
_WORDS: GenerationOptions = {"max_output_tokens": 600, "temperature": 1.0, "regex": "([a-z]{1,9} ){140}"}
_END_OF_TURN = 258  # in the tiny model's vocabulary
_PATIENT = ClientOptions(
    resume=ResumeOptions(timeout_s=300.0, max_attempts=1000),
    channel_options=(("grpc.use_local_subchannel_pool", 1),),  # each client has a connection of its own
)
_TURNED_AWAY_S = 0.5


@dataclass(frozen=True, slots=True)
class Ask:
    """A request whose answer is always the same."""

    prompt: str
    options: GenerationOptions


_OPTIONS: tuple[GenerationOptions, ...] = (
    {**_LONG, "temperature": 0.0},
    {**_LONG, "temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {**_LONG, "temperature": 1.0, "seed": 12},
    {**_LONG, "temperature": 2.0, "seed": 11, "top_p": 0.95},
    # What holds across a break by being read again from the tokens: where a grammar is, and what may yet be a stop.
    {**_WORDS, "seed": 13, "reasoning": False},
    {**_LONG, "temperature": 2.0, "seed": 14, "stop_strings": ["zq", "e e e"], "top_logprobs": 2},
    # A budget that makes the model close its thinking, and a constraint that begins there.
    {**_WORDS, "seed": 15, "reasoning": True, "reasoning_budget_tokens": 150, "logit_bias": {_END_OF_TURN: -100.0}},
)
ASKS = tuple(Ask(prompt, options) for prompt in ("endless", "the quick brown fox", "你好 🙂") for options in _OPTIONS)


@dataclass(slots=True)
class Tally:
    """What became of all streams.

    Attributes:
        finished: Ended well, whatever they said.
        resumed: Of those, the ones that the client went on with after a break.
        failures: How each stream that had begun failed.
        verdicts: What is wrong with those that said something else than undisturbed, and what they were asked.
        tokens: Tokens that finished streams brought.
        turned_away: Calls refused before they began, because nobody listened or could answer; they were asked again.
    """

    finished: int = 0
    resumed: int = 0
    tokens: int = 0
    turned_away: int = 0
    failures: list[str] = field(default_factory=list[str])
    verdicts: list[tuple[Ask, Verdict]] = field(default_factory=list[tuple[Ask, Verdict]])


class Load:
    """A floor of traffic: so many streams, one after the other, until told to stop.

    Args:
        target: Where the gateway, or what leads to it, listens.
        undisturbed: The answer of each ask when nothing happens.
        seed: Of the choice among them.

    Attributes:
        tally: What became of the streams so far.
        open: Streams that have begun and not ended.
    """

    def __init__(self, target: str, undisturbed: Sequence[tuple[Ask, Generation]], seed: int) -> None:
        self._target = target
        self._undisturbed = undisturbed
        self._choose = random.Random(seed)  # noqa: S311 - a workload, no secret
        self._stopped = False
        self.tally = Tally()
        self.open = 0

    async def run(self, streams: int) -> None:
        """Keep so many streams open until `stop`; return when the last one has ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(self._stream_on())

    def stop(self) -> None:
        """Begin no more streams."""
        self._stopped = True

    async def _stream_on(self) -> None:
        async with AsyncClient(self._target, _PATIENT) as client:
            while not self._stopped:
                await self._stream(client, *self._choose.choice(self._undisturbed))

    async def _stream(self, client: AsyncClient, ask: Ask, undisturbed: Generation) -> None:
        tally, first = self.tally, ""
        async with client.stream(ask.prompt, **ask.options) as stream:
            try:
                async for _ in stream:
                    if not first:
                        first = stream.generation_id
                        self.open += 1
                generation = await stream.generation()
            except QwireError as error:
                if isinstance(error, Unavailable) and not first:
                    tally.turned_away += 1
                    await asyncio.sleep(_TURNED_AWAY_S)
                else:
                    tally.failures.append(f"{type(error).__name__}: {error}")
                return
            finally:
                self.open -= bool(first)
        tally.finished += 1
        tally.resumed += stream.generation_id != first
        tally.tokens += len(generation.tokens)
        verdict = compare(generation, undisturbed)
        if not verdict.is_equal:
            tally.verdicts.append((ask, verdict))


async def undisturbed_answers(target: str) -> list[tuple[Ask, Generation]]:
    """Ask everything once, before anything is broken."""
    async with AsyncClient(target) as client:
        return [(ask, await client.generate(ask.prompt, **ask.options)) for ask in ASKS]
