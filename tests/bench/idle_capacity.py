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
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from qwire.client import AsyncClient, BatchItem, ClientOptions, Priority
from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan
from qwire.models.store import ModelStore
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig
from qwire.rpc.registry import ServedModel
from qwire.serve.environment import cache_dir
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from tests.contract.edge import CALM, Edge, open_edge

MODEL = "qwen2.5-coder-0.5b-instruct"
MOST_TTFT_RATIO, LEAST_SHARE = 1.3, 0.85
PROMPT_WORDS, OUTPUT_TOKENS = (60, 180), 32
ITEM_WORDS, ITEM_TOKENS, ITEMS = (20, 60), (48, 144), 1000
WORDS = "a list of values index key loop return while error file path count sum first last next true none".split()


@dataclass(slots=True)
class Meter:
    """Counts what steps compute, by who asked for it."""

    computed: Counter[str] = field(default_factory=Counter[str])
    """Tokens of prompts and answers."""
    written: Counter[str] = field(default_factory=Counter[str])
    """Tokens of answers."""
    preemptions: int = 0
    _ends: dict[Sequence, int] = field(default_factory=dict[Sequence, int])

    def count(self, plan: StepPlan) -> None:
        """Count a step that was computed to its end."""
        self.preemptions += len(plan.preempted)
        for tokens in plan.scheduled:
            end = self._ends.get(tokens.sequence, 0)
            self._ends[tokens.sequence] = max(end, tokens.end)
            self.computed[tokens.sequence.tenant] += max(0, tokens.end - max(end, tokens.start))
            self.written[tokens.sequence.tenant] += tokens.samples


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what the engines of this process compute."""
    meter, execute = Meter(), ModelRunner.execute

    def counted(runner: ModelRunner, plan: StepPlan) -> StepResult:
        result = execute(runner, plan)
        meter.count(plan)
        return result

    ModelRunner.execute = counted  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield meter
    finally:
        ModelRunner.execute = execute


@dataclass(frozen=True, slots=True)
class Phase:
    """What some time brought.

    Attributes:
        ttft_s: Times to first token of the callers.
        tpot_s: Their means between two tokens.
        callers: Tokens a second that were computed for them.
        job: And for the job.
        callers_written: Output tokens a second of callers.
        job_written: And of the job.
    """

    ttft_s: list[float]
    tpot_s: list[float]
    callers: float
    job: float
    callers_written: float
    job_written: float


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
            prompt = _words(choose, PROMPT_WORDS)
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
    return " ".join(choose.choices(WORDS, k=choose.randint(*length)))


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _row(name: str, phase: Phase) -> None:
    times = "| | | "
    if phase.ttft_s:
        ttft = [_percentile(phase.ttft_s, share) * 1e3 for share in (0.5, 0.95)]
        times = f"| {ttft[0]:.0f} | {ttft[1]:.0f} | {statistics.mean(phase.tpot_s) * 1e3:.0f} "
    print(
        f"| {name} | {len(phase.ttft_s)} {times}| {phase.callers:.1f} | {phase.job:.1f} | {phase.callers_written:.1f} "
        f"| {phase.job_written:.1f} | {os.getloadavg()[0]:.1f} |",
        flush=True,
    )


def report(alone: list[Phase], beside: list[Phase], saturated: list[Phase], preemptions: int) -> bool:
    """Print what came out, and return whether both bounds hold."""
    most = statistics.mean(phase.job for phase in saturated)
    most_written = statistics.mean(phase.job_written for phase in saturated)
    ttft = {
        share: [_percentile([s for one in side for s in one.ttft_s], share) for side in (alone, beside)]
        for share in (0.5, 0.95)
    }
    tpot = [statistics.mean(s for one in side for s in one.tpot_s) for side in (alone, beside)]
    ratio = ttft[0.95][1] / ttft[0.95][0]
    ratios = [_percentile(b.ttft_s, 0.95) / _percentile(a.ttft_s, 0.95) for a, b in zip(alone, beside, strict=True)]
    shares = [one.job / (most - one.callers) for one in beside]
    share = statistics.mean(one.job for one in beside) / (most - statistics.mean(one.callers for one in beside))
    written = [one.job_written / (most_written - one.callers_written) for one in beside]
    print(
        f"\nTTFT p50 {ttft[0.5][0] * 1e3:.0f} ms without, {ttft[0.5][1] * 1e3:.0f} ms with, ratio "
        f"{ttft[0.5][1] / ttft[0.5][0]:.2f}; time per output token {tpot[0] * 1e3:.0f} and {tpot[1] * 1e3:.0f} ms, all "
        f"requests; {preemptions} places were given up\n"
        f"TTFT p95 {ttft[0.95][0] * 1e3:.0f} ms without, {ttft[0.95][1] * 1e3:.0f} ms with, ratio {ratio:.2f}; of pairs "
        f"{_spread(ratios, 2)}; at most {MOST_TTFT_RATIO}: {_verdict(ratio <= MOST_TTFT_RATIO)}\n"
        f"saturated {_spread([one.job for one in saturated], 1)} tokens/s; the job beside callers "
        f"{_spread([one.job for one in beside], 1)}; share of what they leave {share:.3f}, of pairs {_spread(shares, 3)}; "
        f"at least {LEAST_SHARE}: {_verdict(share >= LEAST_SHARE)}\n"
        f"by output tokens alone: share {_spread(written, 3)}"
    )
    return ratio <= MOST_TTFT_RATIO and share >= LEAST_SHARE


def _verdict(holds: bool) -> str:  # noqa: FBT001 - the verdict's own word
    return "PASS" if holds else "MISS"


async def main() -> None:
    """Measure and print."""
    arguments = _parse()
    checkpoint = ModelStore(cache_dir(None)).resolve(MODEL)
    config = EngineConfig(quantization="q8", max_running=arguments.places)
    with tempfile.TemporaryDirectory(prefix="qwire-idle-") as folder, metered() as meter:
        batch = BatchConfig(store_url=f"sqlite:///{Path(folder) / 'jobs.db'}")
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
                f"{psutil.cpu_count()} CPUs, {MODEL} in q8, {arguments.places} places; {arguments.rate:g} requests/s of "
                f"{PROMPT_WORDS[0]} to {PROMPT_WORDS[1]} words and {OUTPUT_TOKENS} output tokens; items of "
                f"{ITEM_WORDS[0]} to {ITEM_WORDS[1]} words and {ITEM_TOKENS[0]} to {ITEM_TOKENS[1]} output tokens; "
                f"{arguments.seconds:g} s a phase\n\n| phase | requests | TTFT p50, ms | p95, ms | per output token, ms "
                "| tokens/s of callers | of the job | output tokens/s of callers | of the job | load |\n"
                "|---|---|---|---|---|---|---|---|---|---|"
            )
            await bench.phase(1, 10.0, arguments.rate, Priority.LOW)  # warm
            saturated, alone, beside = list[Phase](), list[Phase](), list[Phase]()

            async def run(into: list[Phase], name: str, seed: int, rate: float, job: Priority | None) -> None:
                into.append(await bench.phase(seed, arguments.seconds, rate, job))
                _row(name, into[-1])

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
