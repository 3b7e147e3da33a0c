"""What a run of faults shows, and whether it may be called good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.load import Tally
from tests.chaos.schedule import Strike


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        planned: Faults that were to strike, by name.
        strikes: Those that were tried, in order.
        tally: What became of the streams.
        floor: Streams that have to finish for each planned fault; and each fault has to meet this many open ones.
    """

    planned: Mapping[str, int]
    strikes: Sequence[Strike]
    tally: Tally
    floor: int

    @property
    def problems(self) -> list[str]:
        """Why the run is not good; empty = it is."""
        tally = self.tally
        fired = Counter(strike.fault for strike in self.strikes if strike.evidence)
        problems = [
            f"{name}: struck {fired[name]} times of {number}"
            for name, number in self.planned.items()
            if fired[name] != number
        ]
        if not self.planned:
            problems.append("no fault was planned")
        quiet = [strike.fault for strike in self.strikes if strike.open_streams < self.floor]
        if quiet:
            problems.append(f"under {self.floor} open streams when they struck: {', '.join(quiet)}")
        if tally.finished < (floor := self.floor * sum(self.planned.values())):
            problems.append(f"{tally.finished} streams finished, {floor} are the floor")
        problems += tally.failures
        problems += [f"a stream differs from its undisturbed run: {ask}, {verdict}" for ask, verdict in tally.verdicts]
        return problems

    def markdown(self) -> str:
        """Return it for people."""
        tally, verdicts = self.tally, [verdict for _, verdict in self.tally.verdicts]
        lines = [
            "| fault | struck | open streams, least | until whole again, longest |",
            "|---|---|---|---|",
            *(self._line(name, number) for name, number in self.planned.items()),
            "",
            "| streams | |",
            "|---|---|",
            f"| finished | {tally.finished} ({tally.tokens} tokens) |",
            f"| of them resumed by the client | {tally.resumed} |",
            f"| failed | {len(tally.failures)} |",
            f"| different from their undisturbed run | {len(verdicts)} |",
            f"| tokens lost | {sum(verdict.lost_tokens for verdict in verdicts)} |",
            f"| tokens repeated or wrong | {sum(verdict.repeated_tokens for verdict in verdicts)} |",
            f"| calls turned away before they began, and asked again | {tally.turned_away} |",
            "",
            *(f"- {problem}" for problem in self.problems),
            "**failed**" if self.problems else "**passed**",
        ]
        return "\n".join(lines)

    def _line(self, name: str, planned: int) -> str:
        strikes = [strike for strike in self.strikes if strike.fault == name and strike.evidence]
        open_streams = min((strike.open_streams for strike in strikes), default=0)
        recovery_s = max((strike.recovery_s for strike in strikes), default=0.0)
        return f"| {name} | {len(strikes)} of {planned} | {open_streams} | {recovery_s:.1f} s |"
