"""What a batch job costs those who wait for answers, and how much of what they leave it takes.

Requests arrive at random (Poisson) at a moderate rate, at the same moments without and with a running batch job, in
alternation; the default model, gateway, job store, runner and clients share a process. Before and after, the same items
run alone at normal priority: that is what the engine can do. Tokens are those that the model computed, of prompts and
answers, each once: what a preempted item computes again does not count, nor what the cache spares.

    python -m tests.bench.idle_capacity
    python -m tests.bench.idle_capacity --seconds 60 --pairs 3 --rate 0.3
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from qwire.client import AsyncClient, BatchItem, ClientOptions, Priority
from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.models.store import ModelStore
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.rpc.registry import ServedModel
from qwire.serve.environment import cache_dir
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from tests.bench.idle_meter import Meter, metered
from tests.bench.idle_report import Phase, report, tell
from tests.contract.edge import CALM, Edge, open_edge

MODEL = "qwen2.5-coder-0.5b-instruct"
PROMPT_WORDS, OUTPUT_TOKENS = (60, 180), 32
ITEM_WORDS, ITEM_TOKENS, ITEMS = (20, 60), (48, 144), 1000
WORDS = "a list of values index key loop return while error file path count sum first last next true none"


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that a phase needs."""

    edge: Edge
    engine: LocalEngine
    batch: BatchConfig
    meter: Meter
    caller: AsyncClient
    owner: AsyncClient
    places: int
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def phase(self, seed: int, seconds: float, rate: float, job: Priority | None) -> Phase:
        """Let requests arrive for some time, beside a job or not.

        Args:
            seed: Of the arrivals and prompts.
            seconds: How long requests arrive.
            rate: Requests a second; 0 = none.
            job: The priority of the job; None = there is none.
        """
        if job is None:
            return await self._arrivals(seed, seconds, rate)
        async with self._job(seed, job):
            return await self._arrivals(seed, seconds, rate)

    async def _arrivals(self, seed: int, seconds: float, rate: float) -> Phase:
        choose = random.Random(seed)  # noqa: S311 - the same workload each time
        ttft_s, tpot_s, asked = list[float](), list[float](), list[asyncio.Task[None]]()
        before = self.meter.computed.copy(), self.meter.written.copy()
        began = due = time.perf_counter()

        async def ask(prompt: str) -> None:
            times = [time.perf_counter()]
            async for event in self.caller.stream(prompt, max_output_tokens=OUTPUT_TOKENS, ignore_eos=True):
                times += [time.perf_counter()] * len(getattr(event, "tokens", ()))
            assert len(times) == OUTPUT_TOKENS + 1, "a token was lost"
            ttft_s.append(times[1] - times[0])
            tpot_s.append((times[-1] - times[1]) / (OUTPUT_TOKENS - 1))

        while rate and (due := due + choose.expovariate(rate)) < began + seconds:
            # No prompt comes twice: of the second one the beginning would be in the cache.
            prompt = f"{next(self.numbers)}: {_words(choose, PROMPT_WORDS)}"
            await asyncio.sleep(due - time.perf_counter())
            asked.append(asyncio.create_task(ask(prompt)))
        await asyncio.sleep(began + seconds - time.perf_counter())
        elapsed = time.perf_counter() - began
        computed, written = self.meter.computed - before[0], self.meter.written - before[1]
        await asyncio.gather(*asked)
        rates = (counter[whose] / elapsed for counter in (computed, written) for whose in ("callers", "job"))
        return Phase(ttft_s, tpot_s, *rates)

    @asynccontextmanager
    async def _job(self, seed: int, priority: Priority) -> AsyncGenerator[None]:
        """Have a job run that is larger than the time, and wait until it takes all places."""
        choose = random.Random(-seed)  # noqa: S311 - the same workload each time
        job = await self.owner.jobs.create(priority=priority)
        items = [
            BatchItem(_words(choose, ITEM_WORDS), options={"max_output_tokens": choose.randint(*ITEM_TOKENS)})
            for _ in range(ITEMS)
        ]
        await self.owner.jobs.upload(job.id, items, ignore_eos=True)
        runner = BatchRunner(self.edge.registry, self.batch)
        await runner.start()
        while (await self.engine.stats()).running < self.places:  # noqa: ASYNC110 - of that there is no event
            await asyncio.sleep(0.1)
        yield
        await runner.close()
        await self.owner.jobs.cancel(job.id)


def _words(choose: random.Random, length: tuple[int, int]) -> str:
    return " ".join(choose.choices(WORDS.split(), k=choose.randint(*length)))


async def main() -> None:
    """Measure and print."""
    arguments = _parse()
    config = EngineConfig(quantization="q8", max_running=arguments.places)
    with tempfile.TemporaryDirectory(prefix="qwire-idle-") as folder, metered() as meter:
        batch = BatchConfig(store_url=f"sqlite:///{Path(folder) / 'jobs.db'}")
        checkpoint = ModelStore(cache_dir(None)).resolve(MODEL)
        engine = await LocalEngine.start(checkpoint, config)
        card = await engine.card()
        model = ServedModel(card, Generator(TextProcessor.from_folder(checkpoint.folder), engine, card), engine)
        async with (
            open_edge([model], config=replace(CALM, batch=batch)) as edge,
            AsyncClient(f"127.0.0.1:{edge.port}", ClientOptions(tenant="callers", timeout_s=900.0)) as caller,
            AsyncClient(f"127.0.0.1:{edge.port}", ClientOptions(tenant="job", timeout_s=900.0)) as owner,
        ):
            bench = Bench(edge, engine, batch, meter, caller, owner, arguments.places)
            print(
                f"{psutil.cpu_count()} CPUs, {card.model_id} in {card.quantization.method}, {arguments.places} places; "
                f"{arguments.rate:g} requests/s of {PROMPT_WORDS} words and {OUTPUT_TOKENS} output tokens; items of "
                f"{ITEM_WORDS} words and {ITEM_TOKENS} output tokens; {arguments.seconds:g} s a phase\n\n"
                "| phase | requests | TTFT p50, ms | p95, ms | per output token, ms | tokens/s of callers | of the job "
                "| output tokens/s of callers | of the job | load |\n|---|---|---|---|---|---|---|---|---|---|",
                flush=True,
            )
            await bench.phase(1, 10.0, arguments.rate, Priority.LOW)  # warm
            saturated, alone, beside = list[Phase](), list[Phase](), list[Phase]()

            async def run(into: list[Phase], name: str, seed: int, rate: float, job: Priority | None) -> None:
                into.append(await bench.phase(seed, arguments.seconds, rate, job))
                tell(name, into[-1])

            await run(saturated, "saturated", 2, 0.0, Priority.NORMAL)
            before = meter.preemptions
            for pair in range(3, 3 + arguments.pairs):
                sides = [(alone, "without", None), (beside, "with", Priority.LOW)]
                for into, name, job in sides if pair % 2 else sides[::-1]:
                    await run(into, name, pair, arguments.rate, job)
            preemptions = meter.preemptions - before
            await run(saturated, "saturated", 3 + arguments.pairs, 0.0, Priority.NORMAL)
        await engine.close()
    if not report(alone, beside, saturated, preemptions):
        sys.exit(1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=75.0, help="of a phase")
    parser.add_argument("--pairs", type=int, default=4, help="phases without and with the job")
    parser.add_argument("--rate", type=float, default=0.4, help="requests a second")
    parser.add_argument("--places", type=int, default=16, help="generations at once")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
