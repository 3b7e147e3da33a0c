"""What the benchmark of jobs observes: items done and memory, over time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from matplotlib.figure import Figure

_SAMPLE_S = 0.5
_TENTH = 0.1


class Phase:
    """One phase: when how many items were done, and what CPU time all processes had taken by then.

    Args:
        name: Names it.
        items: How many there are to do.
    """

    def __init__(self, name: str, items: int) -> None:
        self.name = name
        self.done = 0
        self._items = items
        self._samples: list[_Sample] = []

    def sample(self, cpu_s: float) -> None:
        """Take note of the present."""
        self._samples.append(_Sample(self.done, time.perf_counter(), cpu_s))

    def row(self) -> str:
        """Return a row of a table: the whole, the first tenth and the last one."""
        parts = [self._part(*part) for part in ((0, 1), (0, _TENTH), (1 - _TENTH, 1))]
        rates = " | ".join(f"{items / max(passed_s, 1e-9):,.0f}" for items, passed_s, _ in parts)
        costs = " | ".join(f"{cpu_s / items * 1000:.2f}" for items, _, cpu_s in parts)
        return f"| {self.name} | {self._samples[-1].time_s - self._samples[0].time_s:,.0f} | {rates} | {costs} |"

    def rates(self) -> tuple[list[float], list[float]]:
        """Return times, and the rate of a fortieth of the phase before each."""
        parts = 40
        edges = [self._at(self._items * part / parts).time_s for part in range(parts + 1)]
        return edges[1:], [self._items / parts / max(until - since, 1e-9) for since, until in pairwise(edges)]

    def _part(self, since: float, until: float) -> tuple[float, float, float]:
        first, last = self._at(self._items * since), self._at(self._items * until)
        return self._items * (until - since), last.time_s - first.time_s, last.cpu_s - first.cpu_s

    def _at(self, count: float) -> _Sample:
        """Return the moment when so many were done, interpolated between samples."""
        for since, until in pairwise(self._samples):
            if until.done >= count > since.done:
                part = (count - since.done) / (until.done - since.done)
                time_s = since.time_s + part * (until.time_s - since.time_s)
                return _Sample(count, time_s, since.cpu_s + part * (until.cpu_s - since.cpu_s))
        return self._samples[0] if count <= 0 else self._samples[-1]


@dataclass(frozen=True, slots=True)
class _Sample:
    done: float
    time_s: float
    cpu_s: float


class Record:
    """Everything that is observed.

    Args:
        folder: Where a SQLite store has its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._began = time.perf_counter()
        self._phases: list[Phase] = []
        self._processes = {"client": _Watched(os.getpid(), shares=False)}
        self._memory: dict[str, tuple[list[float], list[float]]] = {}
        self._file_mib = 0.0

    def add_process(self, name: str, pid: int, *, shares: bool = False) -> None:
        """Watch a process, and its children where it shares memory with them."""
        self._processes[name] = _Watched(pid, shares=shares)

    def remove_process(self, name: str) -> None:
        """Watch it no more."""
        del self._processes[name]

    @contextmanager
    def phase(self, name: str, items: int) -> Generator[Phase]:
        """Observe a phase as long as the context lasts."""
        phase = Phase(name, items)
        phase.sample(self._cpu_s())
        self._phases.append(phase)
        yield phase
        phase.sample(self._cpu_s())
        print(f"{phase.row()} after {time.perf_counter() - self._began:,.0f} s", flush=True)

    async def sample(self) -> None:
        """Take samples until cancelled."""
        while True:
            await asyncio.sleep(_SAMPLE_S)
            if self._phases:
                self._phases[-1].sample(self._cpu_s())
            for name, process in self._processes.items():
                times, sizes = self._memory.setdefault(name, ([], []))
                times.append(time.perf_counter() - self._began)
                sizes.append(process.memory_mib())
            self._file_mib = max(self._file_mib, sum(one.stat().st_size for one in self._files()) / 2**20)

    def tell(self) -> None:
        """Print tables."""
        print("\n| phase | s | items/s | first tenth | last tenth | CPU, ms/item | first tenth | last tenth |")
        print("|---" * 8 + "|")
        for phase in self._phases:
            print(phase.row())
        print("\n| process | a quarter in, MiB | at the end, MiB | most, MiB |\n|---|---|---|---|")
        for name, (_, sizes) in self._memory.items():
            print(f"| {name} | {sizes[len(sizes) // 4]:,.0f} | {sizes[-1]:,.0f} | {max(sizes):,.0f} |")
        if self._file_mib:
            print(f"\nFiles of SQLite: {self._file_mib:,.0f} MiB at most.")

    def draw(self, path: Path) -> None:
        """Draw the rates above, the memory below."""
        figure = Figure(figsize=(9, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for phase in self._phases:
            if phase.name != "delete":
                times, rates = phase.rates()
                above.plot([time_s - self._began for time_s in times], rates, label=phase.name)
        for name, (times, sizes) in self._memory.items():
            below.plot(times, sizes, label=name)
        above.set_ylabel("items/s")
        above.set_yscale("log")
        below.set_ylabel("resident memory, MiB")
        below.set_xlabel("seconds")
        below.set_ylim(bottom=0)
        for axes in (above, below):
            axes.legend()
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        print(f"drawn: {path}")

    def _cpu_s(self) -> float:
        return sum(process.cpu_s() for process in self._processes.values())

    def _files(self) -> list[Path]:
        return [one for one in self._folder.glob("jobs.db*") if one.exists()]


class _Watched:
    """A process, with its children where it is a server of several that share memory.

    Args:
        pid: Its id.
        shares: Whether it is one.
    """

    def __init__(self, pid: int, *, shares: bool) -> None:
        self._process = psutil.Process(pid)
        self._shares = shares

    def memory_mib(self) -> float:
        """Return what is resident, MiB; of several processes, what they share is counted once."""
        if not self._shares:
            return self._process.memory_info().rss / 2**20
        return sum(self._of_each(lambda one: one.memory_full_info().pss)) / 2**20

    def cpu_s(self) -> float:
        """Return the CPU time so far, seconds."""
        if not self._shares:
            return sum(self._process.cpu_times()[:2])
        times = self._process.cpu_times()
        ended = times.children_user + times.children_system
        return ended + sum(self._of_each(lambda one: sum(one.cpu_times()[:2])))

    def _of_each(self, ask: Callable[[psutil.Process], float]) -> list[float]:
        told: list[float] = []
        for one in (self._process, *self._process.children()):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                told.append(ask(one))
        return told
