"""What must hold, judged by the figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
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
        ratios = [self._ratio(run, other) for run, other in zip(runs, others, strict=True)] if runs and others else []
        what = f"{self.side} over {self.peer} at {self.workload}"
        if self.figure == "ttft":
            return _verdict(f"mean TTFT of {what}", ratios, "<=", self.limit)
        return _verdict(what, ratios, ">=", self.limit)

    def _ratio(self, run: Run, other: Run) -> float:
        if self.figure == "speed":
            return run.tokens_per_s / other.tokens_per_s
        return (sum(run.ttft_s) / len(run.ttft_s)) / (sum(other.ttft_s) / len(other.ttft_s))


@dataclass(frozen=True, slots=True)
class PartBound:
    """A figure of a part of the engine that must hold in the median.

    Attributes:
        what: Says it, and is its name in `Results.parts`.
        sign: Whether the limit is the most or the least.
        limit: See `sign`.
    """

    what: str
    sign: Literal["<=", ">="]
    limit: float

    def judge(self, results: Results) -> str:
        """Return a line as `Bound.judge` does."""
        return _verdict(self.what, results.parts.get(self.what, []), self.sign, self.limit)


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
DRAW = PartBound("draw of 32 rows by top-k and top-p on one thread, time of continuous batching over ours", ">=", 10.0)
PREFIX = PartBound("TTFT of a prompt over that of the next with the same 1,000 first tokens", ">=", 5.0)
KL = PartBound("KL of q8 from float32 in nats, not measured now but read from what `make eval` wrote", "<=", 0.002)
TOP_1 = PartBound("top-1 of q8 with float32, read likewise", ">=", 0.98)
PART_BOUNDS = (DRAW, PREFIX, KL, TOP_1)
"""The same, of what is measured without peers' engines."""
MEMORY_LIMIT = 0.4
"""The most memory of `q8` after loading, over that of a process that holds its weights in four bytes each."""


def judge_memory(results: Results) -> list[str]:
    """Return a line as `Bound.judge` does, and one that judges nothing if float32 was measured as well."""
    q8, float32 = results.memory.get("q8"), results.memory.get("float32")
    whole = q8.before_bytes + results.float32_bytes if q8 and results.float32_bytes else 0
    ratios = [q8.loaded_bytes / whole] if q8 and whole else []
    lines = [_verdict("memory of q8 after loading over that of weights in four bytes each", ratios, "<=", MEMORY_LIMIT)]
    if q8 and float32:
        ratio = q8.loaded_bytes / float32.loaded_bytes
        lines.append(
            f"NOT JUDGED: memory of q8 after loading over that of float32 is {ratio:.2f}, as float32 holds the same "
            "numbers in fewer bytes than four since ADR 11"
        )
    return lines


def _verdict(what: str, values: Sequence[float], sign: Literal["<=", ">="], limit: float) -> str:
    if not values:
        return f"NOT MEASURED: {what} {sign} {limit}"
    spread = Spread.of(values)
    holds = spread.median >= limit if sign == ">=" else spread.median <= limit
    shown = spread.show(2) if len(values) > 1 else f"{values[0]:.3g}"
    return f"{'PASS' if holds else 'MISS'}: {what} is {shown}, {sign} {limit}"
