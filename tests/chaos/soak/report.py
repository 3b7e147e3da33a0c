"""What a soak shows: a verdict for each process, a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.chaos.soak.trend import Trend, Verdict
from tests.chaos.soak.vitals import Sample

GROWTH_PER_HOUR = 0.01
COUNTS = ("descriptors", "threads", "tasks", "spans")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        samples: Every look at every process.
        warm_up_s: What came before is not judged.
        ours: The processes that decide; those of Ray are told beside them.
        ended: Calls that ended as they had to, by kind.
        failures: Those that did not, by what they said.
    """

    samples: Sequence[Sample]
    warm_up_s: float
    ours: Sequence[str]
    ended: Mapping[str, int]
    failures: Mapping[str, int]

    @property
    def processes(self) -> list[str]:
        """All processes, in order of appearance."""
        return list(dict.fromkeys(sample.process for sample in self.samples))

    @property
    def passed(self) -> bool:
        """Whether no call failed, and nothing of ours grows."""
        verdicts = [verdict for process in self.ours for verdict in self.verdicts(process).values()]
        return bool(verdicts) and not self.failures and set(verdicts) == {Verdict.PASS}

    def verdicts(self, process: str) -> dict[str, Verdict]:
        """Return the verdict on each quantity that is known of a process."""
        counts = {name: trend.count_verdict() for name in COUNTS if (trend := self._trend(process, name))}
        memory = self._trend(process, "anonymous_bytes")
        return (
            {}
            if memory is None
            else {"memory": memory.share_verdict(self._resident(process), GROWTH_PER_HOUR), **counts}
        )

    def markdown(self) -> str:
        """Return it for people."""
        lines = [
            "| process | resident, MiB | own, MiB | slope per hour (95 %) | descriptors | threads | tasks | spans | |",
            "|---|---|---|---|---|---|---|---|---|",
            *(self._line(process) for process in self.processes),
            "",
            f"Calls: {', '.join(f'{number} {kind}' for kind, number in sorted(self.ended.items()))}.",
            "",
            *(f"- {number} x {failure}" for failure, number in self.failures.items()),
            "**passed**" if self.passed else "**failed**",
        ]
        return "\n".join(lines)

    def draw(self, path: Path) -> None:
        """Draw what our processes held over time; dots are the idle moments that are judged."""
        rows = {"memory, MiB": "anonymous_bytes", **{name: name for name in COUNTS}}
        with rc_context({"svg.hashsalt": "qwire"}):  # the same picture of the same figures
            figure = Figure(figsize=(4 * len(self.ours), 2 * len(rows)), layout="constrained")
            axes = figure.subplots(len(rows), len(self.ours), sharex=True, squeeze=False)
            for column, process in enumerate(self.ours):
                axes[0][column].set_title(process)
                axes[-1][column].set_xlabel("minutes")
                for row, (label, name) in enumerate(rows.items()):
                    scale = _MIB if name == "anonymous_bytes" else 1
                    own = [one for one in self.samples if one.process == process and getattr(one, name) is not None]
                    idle = [one for one in own if one.is_idle]
                    cell = axes[row][column]
                    cell.plot([s.at_s / 60 for s in own], [getattr(s, name) / scale for s in own], linewidth=0.5)
                    cell.plot([s.at_s / 60 for s in idle], [getattr(s, name) / scale for s in idle], ".", markersize=3)
                    cell.axvline(self.warm_up_s / 60, color="grey", linewidth=0.5, linestyle="--")
                    if column == 0:
                        cell.set_ylabel(label.replace("tasks", "asyncio tasks").replace("spans", "open spans"))
            figure.savefig(path, metadata={"Date": None})

    def _judged(self, process: str, name: str) -> list[Sample]:
        return [
            sample
            for sample in self.samples
            if sample.process == process
            and sample.is_idle
            and sample.at_s >= self.warm_up_s
            and getattr(sample, name) is not None
        ]

    def _resident(self, process: str) -> float:
        return fmean(sample.resident_bytes for sample in self._judged(process, "resident_bytes"))

    def _trend(self, process: str, name: str) -> Trend | None:
        judged = self._judged(process, name)
        if len(judged) < 4:  # a line goes through any two points
            return None
        return Trend.of([sample.at_s for sample in judged], [getattr(sample, name) for sample in judged])

    def _line(self, process: str) -> str:
        judged, memory = self._judged(process, "anonymous_bytes"), self._trend(process, "anonymous_bytes")
        if memory is None:
            return f"| {process} | too few samples | | | | | | | |"
        first, last = (sample.anonymous_bytes / _MIB for sample in (judged[0], judged[-1]))
        resident = self._resident(process)
        slope, margin = (100 * value / resident for value in (memory.slope, memory.margin))
        cells = [f"{resident / _MIB:.0f}", f"{first:.1f} to {last:.1f}", f"{slope:+.2f} ± {margin:.2f} %"]
        for name in COUNTS:
            known = self._judged(process, name)
            cells.append(f"{getattr(known[0], name)} to {getattr(known[-1], name)}" if known else "")
        verdicts = self.verdicts(process)
        wrong = [f"{verdict.value} ({name})" for name, verdict in verdicts.items() if verdict is not Verdict.PASS]
        return f"| {process} | {' | '.join(cells)} | {', '.join(wrong) or Verdict.PASS.value} |"
