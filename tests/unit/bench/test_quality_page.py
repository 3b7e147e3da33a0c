"""The tables of the page about quality, as measurements change them."""

from __future__ import annotations

from tests.bench.quality_page import CPU, DOCUMENT, Quality, caption, merged, recorded

HERE, THERE = caption("a-model", CPU), caption("a-model", "one device")
EMPTY = "Above.\n\n<!-- begin table -->\n<!-- end table -->\n\nBelow.\n"


def row(mode: str, kl: float, top_1: float = 0.9) -> dict[str, str]:
    return {mode: Quality(8.5, kl, 0.01, top_1, 0.5, 2048, 20.4).row(mode)}


def test_a_mode_that_is_measured_again_replaces_its_row_and_no_other() -> None:
    page = merged(merged(EMPTY, HERE, row("none", 0) | row("q8", 0.004)), HERE, row("q8", 0.001) | row("nf4", 0.06))
    assert [line.split()[1] for line in page.splitlines() if line.startswith("| ")] == ["weights", "none", "q8", "nf4"]
    assert "| q8 | 8.500 | 0.00100 | 0.01000 | 0.900 | 0.500 | passes | 2,048 | 20 |" in page
    assert "| nf4 | 8.500 | 0.06000 | 0.01000 | 0.900 | 0.500 | fails | 2,048 | 20 |" in page
    assert page.startswith("Above.\n\n")
    assert page.endswith("\n\nBelow.\n")


def test_each_device_has_a_table() -> None:
    page = merged(merged(EMPTY, HERE, row("int8", 0.002, 0.97)), THERE, row("int8", 0.003, 0.96))
    assert recorded(page, HERE, "int8") == (0.002, 0.97)
    assert recorded(page, THERE, "int8") == (0.003, 0.96)
    assert recorded(page, THERE, "nf4") is None
    assert recorded(page, caption("another", CPU), "int8") is None


def test_nothing_measured_changes_nothing() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    title = caption("qwen2.5-coder-0.5b-instruct", CPU)
    assert recorded(page, title, "q8") is not None
    assert merged(page, title, {}) == page
