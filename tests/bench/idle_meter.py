"""What steps compute for whom, and what makes a tiny model's steps as long as a larger one's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from qwire.engine.interruption import InterruptibleBatch
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan

_STEP_S, _DECODE_S, _PREFILL_S = 0.020, 0.0029, 0.0021
"""A step of the default model in q8 on two CPUs, each row in decode, each token of a prompt: by `tests.bench.step`."""
_LAYERS, _TINY_LAYERS = 24, 2


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
def metered(*, slow: bool) -> Generator[Meter]:
    """Count what the engines of this process compute.

    Args:
        slow: Have each layer of the tiny model sleep as long as twelve of the default model's take, so that neither
            the machine's other work counts nor its own; like these it can be given up in between.
    """
    meter, execute, attend = Meter(), ModelRunner.execute, InterruptibleBatch.attend
    layer_s = 0.0

    def slowly(batch: InterruptibleBatch, *arguments: Any) -> Tensor:
        for _ in range(_LAYERS // _TINY_LAYERS):
            batch.interruption.check()
            time.sleep(layer_s)
        return attend(batch, *arguments)

    def counted(runner: ModelRunner, plan: StepPlan) -> StepResult:
        nonlocal layer_s
        each = (_DECODE_S if tokens.is_decode else _PREFILL_S * tokens.length for tokens in plan.scheduled)
        layer_s = (_STEP_S + sum(each)) / _LAYERS
        result = execute(runner, plan)
        meter.count(plan)
        return result

    ModelRunner.execute = counted  # pyright: ignore[reportAttributeAccessIssue]
    if slow:
        InterruptibleBatch.attend = slowly  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield meter
    finally:
        ModelRunner.execute, InterruptibleBatch.attend = execute, attend
