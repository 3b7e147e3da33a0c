"""The same phases in simulated time: the real scheduler, and steps that take as long as those of the default model.

What it shows hangs on no machine: what the rules of priority cost and give, without gateway, runner and noise. A step
takes 20 ms, 2.9 more for each row in decode and 2.1 for each token of a prompt, near what `tests.bench.step` told
on two CPUs for 1 to 32 rows and for a prompt of 256 tokens; it can be given up before each of 24 layers.

    python -m tests.bench.idle_simulation
    python -m tests.bench.idle_simulation --rate 0.8 --seconds 3600
"""

from __future__ import annotations

import argparse
import math
import random

from qwire.engine.cache import KVCacheManager
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan
from tests.bench.idle_meter import Meter
from tests.bench.idle_report import Phase, report, tell

STEP_S, DECODE_S, PREFILL_S, LAYERS = 0.020, 0.0029, 0.0021, 24
PROMPT_TOKENS, OUTPUT_TOKENS = (60, 220), 32
ITEM_PROMPT_TOKENS, ITEM_TOKENS, ITEMS_WAITING = (20, 80), (48, 144), 32
PLACES = 16


class Simulation:
    """An engine whose clock goes on by what its steps would take.

    Args:
        seed: Of arrivals and items.
        priority: Of the items of a job; None = there is none.
    """

    def __init__(self, seed: int, priority: int | None) -> None:
        self.meter = Meter()
        self.now_s = 1.0
        self._scheduler = Scheduler(KVCacheManager(4096, 16), max_running=PLACES, max_step_tokens=256)
        self._callers, self._items = random.Random(seed), random.Random(-seed)  # noqa: S311 - no secret
        self._priority = priority
        self._number = 0
        self._asked: list[Sequence] = []

    def run(self, seconds: float, rate: float) -> Phase:
        """Let requests arrive for some time, and see them all through."""
        end_s = self.now_s + seconds
        due_s = self.now_s + (self._callers.expovariate(rate) if rate else math.inf)
        counted = None
        while self.now_s < end_s or self._scheduler.running:
            if self.now_s >= end_s and counted is None:
                counted = self.meter.computed.copy(), self.meter.written.copy()
                self._priority = None
            if self.now_s >= end_s and all(sequence.ended for sequence in self._asked):
                break
            self._fill()
            self._scheduler.expire(self._now_ns)
            plan = self._scheduler.schedule(self._now_ns)
            if not plan.scheduled:
                self.now_s = min(due_s, end_s)
            step_end_s, given_up = self.now_s + _step_s(plan), False
            while due_s <= min(step_end_s, end_s) and not given_up:
                self.now_s, given_up = self._arrive(due_s, plan, step_end_s)
                due_s += self._callers.expovariate(rate)
            if given_up:
                self._scheduler.abandon(plan)
                continue
            if plan.scheduled:
                self.now_s = step_end_s
                self.meter.count(plan)
                self._scheduler.update(plan, [5] * len(plan.sampled), self._now_ns)
        computed, written = counted or (self.meter.computed, self.meter.written)
        rates = (counter[whose] / seconds for counter in (computed, written) for whose in ("callers", "job"))
        first = [(one.first_token_unix_ns - one.arrived_unix_ns) / 1e9 for one in self._asked]
        gaps = [
            (one.finish.timings.finished_unix_ns - one.first_token_unix_ns) / 1e9 / (OUTPUT_TOKENS - 1)
            for one in self._asked
            if one.finish
        ]
        return Phase(first, gaps, *rates)

    @property
    def _now_ns(self) -> int:
        return int(self.now_s * 1e9)

    def _arrive(self, due_s: float, plan: StepPlan, step_end_s: float) -> tuple[float, bool]:
        """Add a request in the middle of a step; return when it goes on, and whether the step is given up."""
        sequence = self._sequence("callers", 0, self._callers.randint(*PROMPT_TOKENS), OUTPUT_TOKENS, due_s)
        self._asked.append(sequence)
        self._scheduler.add(sequence)
        if not self._scheduler.outranks(sequence, plan):
            return self.now_s, False
        layer_s = _step_s(plan) / LAYERS
        return due_s + (step_end_s - due_s) % layer_s, True

    def _fill(self) -> None:
        while self._priority is not None and len(self._scheduler.waiting) < ITEMS_WAITING:
            tokens = self._items.randint(*ITEM_PROMPT_TOKENS), self._items.randint(*ITEM_TOKENS)
            self._scheduler.add(self._sequence("job", self._priority, *tokens, self.now_s))

    def _sequence(self, tenant: str, priority: int, prompt: int, output: int, at_s: float) -> Sequence:
        self._number += 1
        envelope = Envelope(str(self._number), priority=priority, tenant=tenant)
        request = TokenRequest((self._number,) * prompt, envelope, StopParams(output, ignore_eos=True))
        return Sequence(request, frozenset(), self._number, int(at_s * 1e9))


def _step_s(plan: StepPlan) -> float:
    each = (DECODE_S if tokens.is_decode else PREFILL_S * tokens.length for tokens in plan.scheduled)
    return STEP_S + sum(each)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of a phase")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.4, help="requests a second")
    arguments = parser.parse_args()
    saturated = [Simulation(1, 0).run(arguments.seconds, 0.0)]
    tell("saturated", saturated[0])
    alone, beside, preemptions = list[Phase](), list[Phase](), 0
    for pair in range(2, 2 + arguments.pairs):
        for into, name, priority in ((alone, "without", None), (beside, "with", -1)):
            simulation = Simulation(pair, priority)
            into.append(simulation.run(arguments.seconds, arguments.rate))
            preemptions += simulation.meter.preemptions
            tell(name, into[-1])
    report(alone, beside, saturated, preemptions)


if __name__ == "__main__":
    main()
