"""Shows a prompt and a model's thinking beside its answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from qwire.cli.output import shown
from qwire.client import Channel, Delta, PromptRead, StreamEvent

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def answer_of(events: Iterable[StreamEvent]) -> Iterator[str]:
    """Yield the pieces of the answer, none empty; write prompt and thinking to standard error as they come.

    So standard output has the answer alone. On a terminal the rest is dimmed.
    """
    aside = False
    try:
        for event in events:
            if not isinstance(event, Delta | PromptRead) or not event.text:
                continue
            if isinstance(event, PromptRead) or event.channel is Channel.REASONING:
                aside = True
                _write(event.text)
                continue
            if aside:
                aside = False
                _write("\n\n")
            yield event.text
    finally:
        if aside:
            _write("\n")


def _write(text: str) -> None:
    terminal = sys.stderr.isatty()
    sys.stderr.write(f"{_DIM}{shown(text)}{_PLAIN}" if terminal else text)
    sys.stderr.flush()
