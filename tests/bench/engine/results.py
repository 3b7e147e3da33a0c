"""Everything that a run of the suite measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.engine.run import Run


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a side's processes.

    Attributes:
        before_bytes: Resident before the model was loaded.
        loaded_bytes: Resident after.
        peak_bytes: The most at any time.
        device_bytes: The most on the accelerator; None = there is none, or the side does not tell.
    """

    before_bytes: int
    loaded_bytes: int
    peak_bytes: int
    device_bytes: int | None = None


@dataclass(slots=True)
class Results:
    """What was measured.

    Attributes:
        title: Machine, model and lengths.
        groups: Sides that took turns, the first one of each group is what the others are compared with.
        workloads: Their names, in order.
        measured: Runs by side and workload, in the order of the rounds.
        memory: By side.
        float32_bytes: What the weights take as float32, four bytes each; 0 = not known.
        parts: Figures of parts of the engine, round by round, by what `bounds.py` says of them.
        missing: Sides that could not be measured, and why.
        notes: What else must be told, such as the rate of arrivals.
    """

    title: str
    groups: list[list[str]] = field(default_factory=list[list[str]])
    workloads: list[str] = field(default_factory=list[str])
    measured: dict[str, dict[str, list[Run]]] = field(default_factory=dict[str, dict[str, list[Run]]])
    memory: dict[str, Memory] = field(default_factory=dict[str, Memory])
    float32_bytes: int = 0
    parts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    def runs(self, side: str, workload: str) -> Sequence[Run]:
        """Return the runs; none where it was not measured."""
        return self.measured.get(side, {}).get(workload, [])

    def add(self, side: str, workload: str, run: Run) -> None:
        """Take a run."""
        if workload not in self.workloads:
            self.workloads.append(workload)
        self.measured.setdefault(side, {}).setdefault(workload, []).append(run)

    def drop(self, side: str, reason: str) -> None:
        """Forget what a side that failed has measured."""
        self.measured.pop(side, None)
        self.missing[side] = reason
        for group in self.groups:
            if side in group:
                group.remove(side)

    def save(self, file: Path) -> None:
        """Write all of it as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read what `save` wrote."""
        read = json.loads(file.read_text(encoding="utf-8"))
        read["measured"] = {
            side: {workload: [Run(**run) for run in runs] for workload, runs in workloads.items()}
            for side, workloads in read["measured"].items()
        }
        read["memory"] = {side: Memory(**memory) for side, memory in read["memory"].items()}
        return cls(**read)
