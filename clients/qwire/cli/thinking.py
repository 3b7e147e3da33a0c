"""Shows a model's thinking beside its answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from qwire.cli.output import shown
from qwire.client import Channel, Delta, StreamEvent

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def answer_of(events: Iterable[StreamEvent]) -> Iterator[str]:
    """Yield the pieces of the answer, none empty; write the thinking to standard error as it comes.

    So standard output has the answer alone. On a terminal the thinking is dimmed.
    """
    thinking = False
    try:
        for event in events:
            if not isinstance(event, Delta) or not event.text:
                continue
            if event.channel is Channel.REASONING:
                thinking = True
                _write(event.text)
                continue
            if thinking:
                thinking = False
                _write("\n\n")
            yield event.text
    finally:
        if thinking:
            _write("\n")


def _write(text: str) -> None:
    terminal = sys.stderr.isatty()
    sys.stderr.write(f"{_DIM}{shown(text)}{_PLAIN}" if terminal else text)
    sys.stderr.flush()
