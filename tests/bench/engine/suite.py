"""Runs the rounds: every round runs every side of a group once, in an order that turns."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.engine.peers import BUILD, PeerMissing
from tests.bench.engine.results import Memory, Results
from tests.bench.engine.run import LostTokens
from tests.bench.engine.side import Side, SideFailed
from tests.bench.engine.sides import PATIENCE, REUSING, Setup, command
from tests.bench.engine.workload import Encode, Workload, at_once, poisson, shared_prefix

_LOGS = BUILD / "bench-logs"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        streams: Numbers of requests at once.
        tokens: Output tokens of each request.
        rounds: Of each number.
        arrivals: Requests of the Poisson run; 0 = no such run.
        rate_per_s: Their rate; None = half of what the first side of the group answered of them.
        sharing: Requests of the run with a shared prefix; 0 = no such run.
        few_rounds: Of these two.
        seed: Of prompts and arrivals.
    """

    streams: Sequence[int]
    tokens: int
    rounds: int
    arrivals: int
    rate_per_s: float | None
    sharing: int
    few_rounds: int
    seed: int


def measure(group: Sequence[str], setup: Setup, plan: Plan, encode: Encode, results: Results) -> None:
    """Measure a group of sides. A side that cannot be installed or fails is left out, and told."""
    results.groups.append(list(group))
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name in group:
            try:
                sides[name] = stack.enter_context(Side(name, command(name, setup), _LOGS))
            except (PeerMissing, SideFailed) as error:
                _drop(results, name, error)
        turns = _Turns(sides, results)
        seeds = itertools.count(plan.seed)  # one for each round: no prompt comes twice
        turns.warm(at_once(encode, max(plan.streams), 2, next(seeds)))
        for streams in plan.streams:
            names = [name for name in sides if streams <= PATIENCE.get(name, streams)]
            for number in range(plan.rounds):
                turns.run(at_once(encode, streams, plan.tokens, next(seeds)), names, number)
        if plan.arrivals:
            _arrivals(turns, plan, encode, results, seeds)
        if plan.sharing:
            names = [name for name in sides if name in REUSING]
            for number in range(plan.few_rounds):
                turns.run(shared_prefix(encode, plan.sharing, plan.tokens, next(seeds)), names, number)
        for name, side in sides.items():
            if name not in results.missing:
                sizes = side.before_bytes, side.loaded_bytes, side.peak_bytes(), side.device_bytes()
                results.memory[name] = Memory(*sizes)


class _Turns:
    def __init__(self, sides: dict[str, Side], results: Results) -> None:
        self._sides = sides
        self._results = results

    def warm(self, workload: Workload) -> None:
        """Run every side once, of which nothing is kept."""
        for name in self._live(list(self._sides)):
            self._guarded(name, lambda name=name: self._sides[name].run(workload))

    def run(self, workload: Workload, names: Sequence[str], number: int) -> None:
        """Run a round."""
        names = self._live(names)
        if not names:
            return
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            self._guarded(name, lambda name=name: self._keep(name, workload))

    def _keep(self, name: str, workload: Workload) -> None:
        run = self._sides[name].run(workload)
        self._results.add(name, workload.name, run)
        print(f"{workload.name:>14} {name:<20} {run.tokens_per_s:7.1f} tokens/s", flush=True)

    def _live(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self._results.missing]

    def _guarded(self, name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except (SideFailed, LostTokens) as error:
            _drop(self._results, name, error)


def _arrivals(turns: _Turns, plan: Plan, encode: Encode, results: Results, seeds: Iterator[int]) -> None:
    group = results.groups[-1]
    rate = plan.rate_per_s
    if rate is None:
        fastest = [run.tokens_per_s for run in results.runs(group[0], str(max(plan.streams)))] if group else []
        if not fastest:
            return
        rate = statistics.median(fastest) / plan.tokens / 2
    names = [name for name in group if name not in PATIENCE]
    used = list(itertools.islice(seeds, plan.few_rounds))
    results.notes.append(
        f"Poisson arrivals beside `{group[0]}`: {plan.arrivals} requests, {rate:.2f} a second, seeds {used}."
    )
    for number, seed in enumerate(used):
        turns.run(poisson(encode, plan.arrivals, plan.tokens, rate, seed), names, number)


def _drop(results: Results, name: str, error: Exception) -> None:
    print(f"{name} is left out: {error}", flush=True)
    results.drop(name, str(error))


def saved(results: Results, folder: Path = BUILD) -> Path:
    """Write the results beside what was built, and return where."""
    file = folder / "bench-engine.json"
    results.save(file)
    return file
