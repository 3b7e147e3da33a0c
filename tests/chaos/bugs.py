"""Bugs that are put into the real code one by one, and the check that has to catch each of them.

python -m tests.chaos.bugs    # prints the table
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc

from qwire.client import QwireError
from qwire.client.generation_reader import GenerationReader
from qwire.engine.chunk import TokenChunk
from qwire.engine.errors import QueueFull
from qwire.engine.scheduler import Scheduler
from qwire.rpc import guard, monitor, status
from qwire.rpc.generation import GenerationRun
from qwire.serve import remote
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.read_ahead import BufferBudget, ReadAhead
from qwire.v1 import health_pb2
from tests.chaos import check
from tests.support.byte_tokenizer import write_byte_tokenizer


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake that somebody could make.

    Attributes:
        name: What it does.
        where: What is replaced.
        plant: Puts it in as long as the context lasts.
        check: What has to catch it.
    """

    name: str
    where: str
    plant: Callable[[], AbstractContextManager[Any]]
    check: check.Check


def _replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Replace a function by what `make` makes of it."""
    return lambda: patch.object(owner, name, make(getattr(owner, name)))


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
    return lambda self, sequence: (0, *order(self, sequence)[1:])


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


def _internal_when_full() -> AbstractContextManager[Any]:
    fault = status._Fault(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")
    return patch.dict(status._TABLE, {QueueFull: lambda _: fault})


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


BUGS = (
    Bug("drops the last chunk", "ReadAhead.next", _replaced(ReadAhead, "next", _drop_last), check.stream_is_whole),
    Bug(
        "repeats a chunk after a failover",
        "RemoteEngine, _Received.add",
        _replaced(remote._Received, "add", _forget),
        check.stream_survives_its_replicas,
    ),
    Bug(
        "loses a token in a failover",
        "RemoteEngine, _Received.rest",
        _replaced(remote._Received, "rest", _lose),
        check.stream_survives_its_replicas,
    ),
    Bug(
        "resumes one token too early",
        "GenerationReader.rest",
        _replaced(GenerationReader, "rest", _resume_early),
        check.stream_survives_its_connection,
    ),
    Bug("swallows a cancel", "Generator.cancel", _replaced(Generator, "cancel", _say_cancelled), check.cancelled_by_id),
    Bug(
        "swallows the deadline",
        "CallGuard._call",
        _replaced(guard.CallGuard, "_call", _no_deadline),
        check.ends_at_the_deadline,
    ),
    Bug(
        "loses the priority",
        "Scheduler._order",
        _replaced(Scheduler, "_order", _level_priorities),
        check.high_priority_goes_first,
    ),
    Bug(
        "buffers without bound",
        "BufferBudget.take",
        _replaced(BufferBudget, "take", _never_wait),
        check.buffer_is_bounded,
    ),
    Bug(
        "settles twice",
        "BufferBudget.give_back",
        _replaced(BufferBudget, "give_back", _twice),
        check.buffer_is_given_back_once,
    ),
    Bug("tells the wrong code", "the status table, QueueFull", _internal_when_full, check.full_queue_is_told),
    Bug(
        "ends with OK before the end",
        "GenerationRun.responses",
        _replaced(GenerationRun, "responses", _end_early),
        check.stream_is_whole,
    ),
    Bug(
        "health lies", "the monitor's judge", _replaced(monitor, "judge", _always_ready), check.ready_only_after_a_token
    ),
)


async def caught(bug: Bug, processor: TextProcessor) -> str:
    """Return what the check says with the bug; empty = it lets the bug pass.

    Raises:
        AssertionError: The check fails without the bug as well: it shows nothing.
    """
    await bug.check(processor, nullcontext())
    try:
        await bug.check(processor, bug.plant())
    except (AssertionError, QwireError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


async def main() -> int:
    """Print what catches each bug."""
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        processor = TextProcessor.from_folder(write_byte_tokenizer(Path(folder)))
        print("| bug | planted in | check | what it says |\n|---|---|---|---|")
        for bug in BUGS:
            finding = await caught(bug, processor)
            passed += not finding
            print(
                f"| {bug.name} | {bug.where} | `{getattr(bug.check, '__name__', '')}` | {finding or '**not caught**'} |"
            )
    print(f"\n{len(BUGS) - passed} of {len(BUGS)} caught")
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
