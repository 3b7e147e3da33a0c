"""The tables of docs/quality.md: one for each device, in which a mode's row is replaced when it is measured again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwire.models.quality import GATE_KL

CPU = "a CPU"
DOCUMENT = Path(__file__).parents[2] / "docs" / "quality.md"

_HEAD = (
    "| weights | perplexity | KL | KL of the worst text | top-1 | greedy | gate | positions | seconds |",
    "|---|---|---|---|---|---|---|---|---|",
)
_BEGIN, _END = "<!-- begin table -->\n", "<!-- end table -->"


@dataclass(frozen=True, slots=True)
class Quality:
    """A mode against float32.

    Attributes:
        perplexity: Of the texts.
        kl: Mean divergence, nats a token.
        worst_kl: Mean divergence of the worst text.
        top_1: Share of positions whose most likely token is the same.
        greedy: Share of greedy output tokens before the first that differs.
        positions: Tokens of text that were compared.
        seconds: How long the mode took for all texts.
    """

    perplexity: float
    kl: float
    worst_kl: float
    top_1: float
    greedy: float
    positions: int
    seconds: float

    def row(self, mode: str) -> str:
        """Return its row of a table."""
        return (
            f"| {mode} | {self.perplexity:.3f} | {self.kl:.5f} | {self.worst_kl:.5f} | {self.top_1:.3f} | "
            f"{self.greedy:.3f} | {'passes' if self.kl <= GATE_KL else 'fails'} | {self.positions:,} | "
            f"{self.seconds:.0f} |"
        )


def caption(model_id: str, device: str) -> str:
    """Return what stands above a table."""
    return f"{model_id}, eight texts, on {device}."


def table(rows: Iterable[str]) -> str:
    """Return rows under their head."""
    return "\n".join((*_HEAD, *rows))


def merged(page: str, title: str, rows: Mapping[str, str]) -> str:
    """Return the page with the rows, by their modes, in the table of this caption; others stay as they are."""
    tables = _tables(page)
    tables[title] = {**tables.get(title, {}), **rows}
    head, rest = page.split(_BEGIN)
    content = "".join(f"{one}\n\n{table(own.values())}\n\n" for one, own in tables.items())
    return head + _BEGIN + content + _END + rest.split(_END)[1]


def recorded(page: str, title: str, mode: str) -> tuple[float, float] | None:
    """Return the KL and top-1 that the page has of a mode; None = it has none."""
    row = _tables(page).get(title, {}).get(mode)
    if row is None:
        return None
    cells = row.split("|")
    return float(cells[3]), float(cells[5])


def _tables(page: str) -> dict[str, dict[str, str]]:
    """Return the rows by caption and mode."""
    tables: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in page.split(_BEGIN)[1].split(_END, maxsplit=1)[0].splitlines():
        if line.startswith("|"):
            if line not in _HEAD:
                rows[line.split()[1]] = line
        elif line:
            rows = tables[line] = {}
    return tables
