"""What is judged beside the sides: parts of the engine, measured in processes of their own before any side starts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from qwire.models.catalogue import DEFAULT_MODEL_ID
from tests.bench import prefix, quality_page, sampling
from tests.bench.engine.bounds import DRAW, KL, PREFIX, TOP_1
from tests.bench.engine.results import Results

_ROWS = 32


def measure_parts(results: Results, rounds: int) -> None:
    """Measure the draw and the prefix of the default model; read its quality from the page, as measuring takes minutes.

    Args:
        results: Takes the figures.
        rounds: Pairs of each.
    """
    results.parts[DRAW.what] = _alone(sampling.ratios, _ROWS, rounds)
    results.parts[PREFIX.what] = _alone(prefix.ratios, rounds)
    page = quality_page.DOCUMENT.read_text(encoding="utf-8")
    title = quality_page.caption(DEFAULT_MODEL_ID, quality_page.CPU)
    if (quality := quality_page.recorded(page, title, "q8")) is not None:
        results.parts[KL.what], results.parts[TOP_1.what] = [quality[0]], [quality[1]]


def _alone(ratios: Callable[..., list[float]], *arguments: int) -> list[float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(ratios, *arguments).result()
