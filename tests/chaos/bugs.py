"""Bugs that are put into the real code one by one, and the check that has to catch each of them.

python -m tests.chaos.bugs    # prints the table
"""

from __future__ import annotations

import asyncio
import pkgutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from qwire.client import QwireError
from qwire.client.generation_reader import GenerationReader
from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import QueueFull
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.rpc.generation import GenerationRun
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.read_ahead import BufferBudget, ReadAhead
from qwire.v1 import health_pb2
from tests.chaos import check
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


def _drop_last(next_chunk: Any) -> Any:
    async def broken(self: ReadAhead) -> TokenChunk | None:
        chunk = await next_chunk(self)
        return chunk if chunk is None or chunk.finish is None else replace(chunk, token_ids=())

    return broken


def _forget(add: Any) -> Any:
    def broken(self: Any, chunk: TokenChunk) -> TokenChunk | None:
        add(self, replace(chunk, token_ids=()))
        return chunk

    return broken


def _lose(rest: Any) -> Any:
    def broken(self: Any) -> Any:
        request = rest(self)
        ids = request.output_token_ids
        return replace(request, output_token_ids=(*ids, ids[-1])) if ids else request

    return broken


def _resume_early(rest: Any) -> Any:
    def broken(self: GenerationReader, request: Any) -> Any:
        asked = rest(self, request)
        if asked.spec.resume.output_token_ids:
            asked.spec.resume.output_token_ids.pop()
        return asked

    return broken


def _say_cancelled(cancel: Any) -> Any:
    del cancel

    async def broken(self: Generator, generation_id: str) -> bool:
        del self, generation_id
        return True

    return broken


def _no_deadline(call: Any) -> Any:
    def broken(self: Any, *arguments: Any) -> Any:
        return replace(call(self, *arguments), deadline_unix_ns=time.time_ns() + 3600 * 10**9)

    return broken


def _level_priorities(order: Any) -> Any:
    def broken(self: Scheduler, sequence: Sequence) -> tuple[int, ...]:
        return (0, *order(self, sequence)[1:])

    return broken


def _never_wait(take: Any) -> Any:
    del take

    async def broken(self: BufferBudget, stream: ReadAhead, chunk_bytes: int) -> None:
        del stream
        self.used_bytes += chunk_bytes

    return broken


def _twice(give_back: Any) -> Any:
    def broken(self: BufferBudget, held_bytes: int) -> None:
        give_back(self, held_bytes)
        give_back(self, held_bytes)

    return broken


def _hide_overload(status_of: Any) -> Any:
    def broken(error: BaseException, **told: Any) -> Any:
        return status_of(RuntimeError() if isinstance(error, QueueFull) else error, **told)

    return broken


def _end_early(responses: Any) -> Any:
    async def broken(self: GenerationRun, *arguments: Any) -> AsyncGenerator[Any]:
        async for response in responses(self, *arguments):
            if response.HasField("finished"):
                return
            yield response

    return broken


def _always_ready(judge: Any) -> Any:
    def broken(*arguments: Any) -> health_pb2.ModelServingState:
        state = judge(*arguments)
        state.state = health_pb2.SERVING_STATE_READY
        return state

    return broken


_READ_AHEAD, _RECEIVED = "qwire.text.read_ahead.ReadAhead", "qwire.serve.remote._Received"
_BUDGET = "qwire.text.read_ahead.BufferBudget"
_READER, _SCHEDULER = "qwire.client.generation_reader.GenerationReader", "qwire.engine.scheduler.Scheduler"
BUGS = (
    Bug("drops the last chunk", f"{_READ_AHEAD}.next", _drop_last, check.stream_is_whole, "1 lost, 0 repeated"),
    Bug(
        "repeats chunks after a failover",
        f"{_RECEIVED}.add",
        _forget,
        check.stream_survives_its_replicas,
        "0 lost, 18 repeated",
    ),
    Bug(
        "loses a token in a failover",
        f"{_RECEIVED}.rest",
        _lose,
        check.stream_survives_its_replicas,
        "1 lost, 0 repeated",
    ),
    Bug(
        "resumes one token too early",
        f"{_READER}.rest",
        _resume_early,
        check.stream_survives_its_connection,
        "0 lost, 1 repeated",
    ),
    Bug(
        "swallows a cancel",
        "qwire.text.generator.Generator.cancel",
        _say_cancelled,
        check.cancelled_by_id,
        "instead of Cancelled",
    ),
    Bug(
        "swallows the deadline",
        "qwire.rpc.guard.CallGuard._call",
        _no_deadline,
        check.ends_at_the_deadline,
        "instead of DeadlineExceeded",
    ),
    Bug(
        "loses the priority", f"{_SCHEDULER}._order", _level_priorities, check.high_priority_goes_first, "the order is"
    ),
    Bug("buffers without bound", f"{_BUDGET}.take", _never_wait, check.buffer_is_bounded, "2000 allowed"),
    Bug("settles twice", f"{_BUDGET}.give_back", _twice, check.buffer_is_given_back_once, "held by nobody"),
    Bug(
        "tells the wrong code",
        "qwire.rpc.guard.status_of",
        _hide_overload,
        check.full_queue_is_told,
        "ServerError instead of Overloaded",
    ),
    Bug(
        "ends with OK too early",
        "qwire.rpc.generation.GenerationRun.responses",
        _end_early,
        check.stream_is_whole,
        "StreamTruncated",
    ),
    Bug(
        "lies about health",
        "qwire.rpc.monitor.judge",
        _always_ready,
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
