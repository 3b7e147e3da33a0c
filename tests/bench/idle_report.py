"""What the phases of `tests.bench.idle_capacity` brought, and whether the two bounds hold."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass

MOST_TTFT_RATIO, LEAST_SHARE = 1.3, 0.85


@dataclass(frozen=True, slots=True)
class Phase:
    """What some time brought.

    Attributes:
        ttft_s: Times to first token of the callers.
        tpot_s: Their means between two tokens.
        callers: Tokens a second that were computed for them.
        job: And for the job.
        callers_written: Output tokens a second of callers.
        job_written: And of the job.
    """

    ttft_s: list[float]
    tpot_s: list[float]
    callers: float
    job: float
    callers_written: float
    job_written: float


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def tell(name: str, phase: Phase) -> None:
    times = "| | | "
    if phase.ttft_s:
        ttft = [_percentile(phase.ttft_s, share) * 1e3 for share in (0.5, 0.95)]
        times = f"| {ttft[0]:.0f} | {ttft[1]:.0f} | {statistics.mean(phase.tpot_s) * 1e3:.0f} "
    print(
        f"| {name} | {len(phase.ttft_s)} {times}| {phase.callers:.1f} | {phase.job:.1f} | {phase.callers_written:.1f} "
        f"| {phase.job_written:.1f} | {os.getloadavg()[0]:.1f} |",
        flush=True,
    )


def report(alone: list[Phase], beside: list[Phase], saturated: list[Phase], preemptions: int) -> bool:
    """Print what came out, and return whether both bounds hold."""
    most = statistics.mean(phase.job for phase in saturated)
    most_written = statistics.mean(phase.job_written for phase in saturated)
    ttft = {
        share: [_percentile([s for one in side for s in one.ttft_s], share) for side in (alone, beside)]
        for share in (0.5, 0.95)
    }
    tpot = [statistics.mean(s for one in side for s in one.tpot_s) for side in (alone, beside)]
    ratio = ttft[0.95][1] / ttft[0.95][0]
    ratios = [_percentile(b.ttft_s, 0.95) / _percentile(a.ttft_s, 0.95) for a, b in zip(alone, beside, strict=True)]
    shares = [one.job / (most - one.callers) for one in beside]
    share = statistics.mean(one.job for one in beside) / (most - statistics.mean(one.callers for one in beside))
    written = [one.job_written / (most_written - one.callers_written) for one in beside]
    print(
        f"\nTTFT p50 {ttft[0.5][0] * 1e3:.0f} ms without, {ttft[0.5][1] * 1e3:.0f} ms with, ratio "
        f"{ttft[0.5][1] / ttft[0.5][0]:.2f}; time per output token {tpot[0] * 1e3:.0f} and {tpot[1] * 1e3:.0f} ms; "
        f"{preemptions} places were given up\n"
        f"TTFT p95 {ttft[0.95][0] * 1e3:.0f} ms without, {ttft[0.95][1] * 1e3:.0f} ms with, ratio {ratio:.2f}; pairs "
        f"{_spread(ratios, 2)}; at most {MOST_TTFT_RATIO}: {_verdict(ratio <= MOST_TTFT_RATIO)}\n"
        f"saturated {_spread([one.job for one in saturated], 1)} tokens/s; the job beside callers "
        f"{_spread([one.job for one in beside], 1)}; share of what they leave {share:.3f}; "
        f"pairs {_spread(shares, 3)}; at least {LEAST_SHARE}: {_verdict(share >= LEAST_SHARE)}\n"
        f"by output tokens alone: share {_spread(written, 3)}"
    )
    return ratio <= MOST_TTFT_RATIO and share >= LEAST_SHARE


def _verdict(holds: bool) -> str:  # noqa: FBT001 - the verdict's own word
    return "PASS" if holds else "MISS"
