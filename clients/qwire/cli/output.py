"""Writes a model's words where a person or a program reads them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

import typer
from rich.console import Console

_KEPT = "\n\t"
_UNLIMITED = 10_000  # columns: more than a table of ours has
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT} | dict.fromkeys(
    range(0x7F, 0xA0), 0xFFFD
)


def write_answer(pieces: Iterable[str]) -> None:
    """Write an answer as it comes, ended by a newline.

    On a terminal, control characters are shown as pictures: a model must not move the cursor or rewrite the screen.
    Elsewhere the text is written as it is.
    """
    terminal = sys.stdout.isatty()
    last = ""
    try:
        for last in pieces:
            sys.stdout.write(shown(last) if terminal else last)  # typer.echo would take out escapes
            sys.stdout.flush()
    finally:  # an error is told on a line of its own
        if last and not last.endswith("\n"):
            typer.echo()


def shown(text: str) -> str:
    """Return a text with pictures of its control characters, for a terminal."""
    return text.translate(_PICTURES)


def table_console() -> Console:
    """Return where tables go: fitted to a terminal; whole where a file or a program reads them."""
    return Console() if sys.stdout.isatty() else Console(width=_UNLIMITED)


def write_json(value: object) -> None:
    """Write dataclasses as JSON, with the names that they have in Python."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not written as JSON")
