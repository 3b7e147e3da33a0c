"""Times an answer as its reader sees it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from qwire.client import Generation


class Stopwatch:
    """Runs from its making; notes when the first text comes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: float | None = None

    def watch(self, pieces: Iterable[str]) -> Iterator[str]:
        """Pass the pieces on."""
        for piece in pieces:
            self._first = self._first or time.monotonic()
            yield piece

    def describe(self, generation: Generation) -> str:
        """Return tokens and times as one line: times as seen here, the server's own in brackets."""
        usage, finished = generation.usage, generation.finished
        speed = finished.output_tokens_per_s
        parts = [f"{usage.prompt_tokens} prompt tokens", f"{usage.output_tokens} output tokens"]
        if self._first is not None:
            server_s = generation.timings.time_to_first_token_s
            parts.append(
                f"first text after {self._first - self._began:.3f} s (first token on the server {server_s:.3f} s)"
            )
        if speed is not None:
            parts.append(f"{speed:.1f} tokens/s")
        parts += [f"{time.monotonic() - self._began:.3f} s in all", f"ended by {finished.reason.value}"]
        return " · ".join(parts)
