"""Tables of a run of the suite, in Markdown."""

from __future__ import annotations

from tests.bench.engine.bounds import BOUNDS, PART_BOUNDS, judge_memory
from tests.bench.engine.results import Memory, Results
from tests.bench.engine.run import Figures

_MB = 1e6


def verdicts(results: Results) -> list[str]:
    """Return a line for each bound of the sides and parts that ran."""
    lines = [bound.judge(results) for bound in BOUNDS if bound.side in results.measured]
    if lines:
        lines += judge_memory(results)
    if results.parts:
        lines += [bound.judge(results) for bound in PART_BOUNDS]
    return lines


def report(results: Results, plots: list[str]) -> str:
    """Return the page.

    Args:
        results: What was measured.
        plots: Paths of pictures, as the page names them.
    """
    parts = [f"{results.title}\n"]
    parts += [f"{note}\n" for note in results.notes]
    parts += [f"`{side}` is missing: {reason}\n" for side, reason in results.missing.items()]
    if lines := verdicts(results):
        parts += ["## What must hold\n", "\n".join(f"- {line}" for line in lines) + "\n"]
    for group in results.groups:
        if any(results.measured.get(side) for side in group):
            parts += [f"## Against {group[0]}\n", _speeds(results, group), _latencies(results, group)]
    if results.memory:
        parts += ["## Memory\n", _memory(results.memory)]
    parts += [f"![{path}]({path})\n" for path in plots]
    return "\n".join(parts)


def _speeds(results: Results, group: list[str]) -> str:
    rows = ["| requests | side | tokens/s | over the first side |", "|---|---|---|---|"]
    for workload, side, figures in _figures(results, group):
        rows.append(f"| {workload} | {side} | {figures.tokens_per_s.show()} | {figures.ratio.show(2)} |")
    return "\n".join(rows) + "\n"


def _latencies(results: Results, group: list[str]) -> str:
    rows = [
        "| requests | side | TTFT mean, ms | p50 | p95 | TPOT p50, ms | p95 |",
        "|---|---|---|---|---|---|---|",
    ]
    for workload, side, figures in _figures(results, group):
        times = (
            *(figures.ttft_mean_s, figures.ttft_p50_s, figures.ttft_p95_s),
            *(figures.tpot_p50_s, figures.tpot_p95_s),
        )
        rows.append(f"| {workload} | {side} | {' | '.join(f'{spread.median * 1e3:,.0f}' for spread in times)} |")
    return "\n".join(rows) + "\n"


def _figures(results: Results, group: list[str]) -> list[tuple[str, str, Figures]]:
    return [
        (workload, side, Figures.of(results.runs(side, workload), results.runs(group[0], workload)))
        for workload in results.workloads
        for side in group
        if results.runs(side, workload)
    ]


def _memory(memory: dict[str, Memory]) -> str:
    rows = ["| side | before loading, MB | after | at most | on the device |", "|---|---|---|---|---|"]
    for side, own in memory.items():
        sizes = (own.before_bytes, own.loaded_bytes, own.peak_bytes, own.device_bytes)
        rows.append(f"| {side} | {' | '.join('-' if size is None else f'{size / _MB:,.0f}' for size in sizes)} |")
    return "\n".join(rows) + "\n"
