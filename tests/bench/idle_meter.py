"""What steps compute, and for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan


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
def metered() -> Generator[Meter]:
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
