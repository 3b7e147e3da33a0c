"""What must hold, judged by the figures of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.bench.engine.results import Results
from tests.bench.engine.run import Run, Spread


@dataclass(frozen=True, slots=True)
class Bound:
    """A ratio between two sides of one group that must hold in the median.

    Attributes:
        side: Ours.
        peer: The other.
        workload: Name of the workload.
        figure: `speed`: our tokens per second over theirs; `ttft`: our mean time to first token over theirs.
        limit: Least ratio of speeds, most ratio of times.
    """

    side: str
    peer: str
    workload: str
    figure: Literal["speed", "ttft"]
    limit: float

    def judge(self, results: Results) -> str:
        """Return a line that begins with PASS, MISS or NOT MEASURED."""
        runs, others = results.runs(self.side, self.workload), results.runs(self.peer, self.workload)
        what = f"{self.side} over {self.peer} at {self.workload}"
        if self.figure == "ttft":
            what = f"mean TTFT of {what}"
        sign = ">=" if self.figure == "speed" else "<="
        if not runs or not others:
            return f"NOT MEASURED: {what} {sign} {self.limit}"
        ratio = Spread.of([self._ratio(run, other) for run, other in zip(runs, others, strict=True)])
        holds = ratio.median >= self.limit if self.figure == "speed" else ratio.median <= self.limit
        return f"{'PASS' if holds else 'MISS'}: {what} is {ratio.show(2)}, {sign} {self.limit}"

    def _ratio(self, run: Run, other: Run) -> float:
        if self.figure == "speed":
            return run.tokens_per_s / other.tokens_per_s
        return (sum(run.ttft_s) / len(run.ttft_s)) / (sum(other.ttft_s) / len(other.ttft_s))


BOUNDS = (
    *(Bound("float32", "continuous-batching", streams, "speed", 2.0) for streams in ("8", "16")),
    *(Bound("float32", "vllm", streams, "speed", 1.0) for streams in ("1", "8", "16", "32")),
    *(Bound("float32", "vllm", streams, "ttft", 1.0) for streams in ("8", "16")),
    Bound("q8", "openvino", "1", "speed", 1.0),
    *(Bound("q8", "openvino", streams, "speed", 1.2) for streams in ("8", "16", "32")),
    Bound("q8", "llama", "1", "speed", 1.3),
    Bound("q8", "llama", "8", "speed", 2.5),
)
"""On a CPU, with the default model."""
MEMORY_LIMIT = 0.4
"""The most memory of `q8` after loading, over that of a process that holds its weights in four bytes each."""


def judge_memory(results: Results) -> str:
    """Return a line as `Bound.judge` does."""
    what = "memory of q8 after loading over that of weights in four bytes each"
    if "q8" not in results.memory or not results.float32_bytes:
        return f"NOT MEASURED: {what} <= {MEMORY_LIMIT}"
    q8 = results.memory["q8"]
    ratio = q8.loaded_bytes / (q8.before_bytes + results.float32_bytes)
    return f"{'PASS' if ratio <= MEMORY_LIMIT else 'MISS'}: {what} is {ratio:.2f}, <= {MEMORY_LIMIT}"
