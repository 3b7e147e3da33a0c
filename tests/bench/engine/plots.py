"""Pictures of a run of the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from tests.bench.engine.results import Results
from tests.bench.engine.run import Figures


def plot(results: Results, folder: Path) -> list[Path]:
    """Draw speed and time to first token over the number of requests at once, for each group.

    Returns:
        The pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "qwire"  # the same picture of the same figures
    streams = [workload for workload in results.workloads if workload.isdigit()]
    drawn: list[Path] = []
    for group in results.groups:
        if not any(results.runs(group[0], workload) for workload in streams):
            continue
        figure, (speed, ttft) = plt.subplots(1, 2, figsize=(10, 4))
        for side in group:
            at = [workload for workload in streams if results.runs(side, workload)]
            own = [Figures.of(results.runs(side, one), results.runs(group[0], one)) for one in at]
            _line(speed, at, [one.tokens_per_s for one in own], side)
            _line(ttft, at, [one.ttft_mean_s for one in own], side)
        speed.set(xlabel="requests at once", ylabel="tokens/s", ylim=(0, None))
        ttft.set(xlabel="requests at once", ylabel="mean time to first token, s", yscale="log")
        for axes in (speed, ttft):
            axes.set_xticks([int(one) for one in streams])
        speed.legend()
        figure.tight_layout()
        drawn.append(folder / f"engine-{group[0]}.svg")
        figure.savefig(drawn[-1], metadata={"Date": None})
        plt.close(figure)
    return drawn


def _line(axes: Any, at: list[str], spreads: list[Any], label: str) -> None:
    """Draw medians, with bars from the least to the most."""
    x = [int(one) for one in at]
    y = [spread.median for spread in spreads]
    below = [(spread.median - spread.least) for spread in spreads]
    above = [(spread.most - spread.median) for spread in spreads]
    axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=3, label=label)
