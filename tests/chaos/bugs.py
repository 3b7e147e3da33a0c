"""Bugs that are put into the real code one by one, and the check that has to catch each of them.

python -m tests.chaos.bugs    # prints the table
"""

from __future__ import annotations

import asyncio
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from qwire.client import QwireError
from qwire.text.processor import TextProcessor
from tests.chaos import breakage, check
from tests.support.byte_tokenizer import write_byte_tokenizer

Breakage = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake that somebody could make.

    Attributes:
        name: What it does.
        target: The function that is replaced.
        breakage: Makes of the function what replaces it.
        check: What has to catch it.
        finding: What the check has to say: it must not fail for another reason.
    """

    name: str
    target: str
    breakage: Breakage
    check: check.Check
    finding: str

    def planted(self) -> AbstractContextManager[Any]:
        """Put it in as long as the context lasts."""
        return patch(self.target, self.breakage(pkgutil.resolve_name(self.target)))


_READ_AHEAD, _RECEIVED = "qwire.text.read_ahead.ReadAhead", "qwire.serve.received.Received"
_BUDGET = "qwire.text.read_ahead.BufferBudget"
_READER, _QUEUE = "qwire.client.generation_reader.GenerationReader", "qwire.engine.waiting_queue.WaitingQueue"
BUGS = (
    Bug("drops the last chunk", f"{_READ_AHEAD}.next", breakage.drop_last, check.stream_is_whole, "1 lost, 0 repeated"),
    Bug(
        "repeats chunks after a failover",
        f"{_RECEIVED}.add",
        breakage.forget,
        check.stream_survives_its_replicas,
        "0 lost, 18 repeated",
    ),
    Bug(
        "loses a token in a failover",
        f"{_RECEIVED}.rest",
        breakage.lose,
        check.stream_survives_its_replicas,
        "1 lost, 0 repeated",
    ),
    Bug(
        "resumes one token too early",
        f"{_READER}.rest",
        breakage.resume_early,
        check.stream_survives_its_connection,
        "0 lost, 1 repeated",
    ),
    Bug(
        "swallows a cancel",
        "qwire.text.generator.Generator.cancel",
        breakage.say_cancelled,
        check.cancelled_by_id,
        "instead of Cancelled",
    ),
    Bug(
        "swallows the deadline",
        "qwire.rpc.guard.CallGuard._call",
        breakage.no_deadline,
        check.ends_at_the_deadline,
        "instead of DeadlineExceeded",
    ),
    Bug(
        "loses the priority",
        f"{_QUEUE}.order",
        breakage.level_priorities,
        check.high_priority_goes_first,
        "the order is",
    ),
    Bug("buffers without bound", f"{_BUDGET}.take", breakage.never_wait, check.buffer_is_bounded, "2000 allowed"),
    Bug("settles twice", f"{_BUDGET}.give_back", breakage.twice, check.buffer_is_given_back_once, "held by nobody"),
    Bug(
        "tells the wrong code",
        "qwire.rpc.guard.status_of",
        breakage.hide_overload,
        check.full_queue_is_told,
        "ServerError instead of Overloaded",
    ),
    Bug(
        "ends with OK too early",
        "qwire.rpc.generation.GenerationRun.responses",
        breakage.end_early,
        check.stream_is_whole,
        "StreamTruncated",
    ),
    Bug(
        "lies about health",
        "qwire.rpc.monitor.judge",
        breakage.always_ready,
        check.ready_only_after_a_token,
        "READY without a token",
    ),
)


async def caught(bug: Bug, processor: TextProcessor) -> str:
    """Return what the check says with the bug; empty = it lets the bug pass, or fails for another reason.

    Raises:
        AssertionError: The check fails without the bug as well: it shows nothing.
    """
    await bug.check(processor, nullcontext())
    try:
        await bug.check(processor, bug.planted())
    except (AssertionError, QwireError) as error:
        finding = f"{type(error).__name__}: {error}".splitlines()[0]
        return finding if bug.finding in finding else ""
    return ""


async def main() -> int:
    """Print what catches each bug."""
    catches = 0
    with tempfile.TemporaryDirectory() as folder:
        processor = TextProcessor.from_folder(write_byte_tokenizer(Path(folder)))
        print("| bug | planted in | check | what it says |\n|---|---|---|---|")
        for bug in BUGS:
            finding, name = await caught(bug, processor), getattr(bug.check, "__name__", "")
            catches += bool(finding)
            print(f"| {bug.name} | `{bug.target}` | `{name}` | {finding or '**not caught**'} |")
    print(f"\n{catches} of {len(BUGS)} caught")
    return 0 if catches == len(BUGS) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
