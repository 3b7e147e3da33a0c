"""Records what a replica did for a request once it is over: spans and measurements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from qwire.engine.chunk import Timings, TokenChunk
from qwire.engine.request import TokenRequest
from qwire.telemetry.generation import GenerationScope, record_generation_failure, record_generation_spans
from qwire.telemetry.setup import Telemetry


class _Closed(Enum):
    """The gateway needed no more: a stop string appeared, or the caller cancelled."""

    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class _ClosedEarly:
    """How a generation ended that its consumer closed."""

    timings: Timings
    reason: Enum = _Closed.CLOSED
    cached_prompt_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class GenerationRecord:
    """What came of one request so far."""

    arrived_unix_ns: int = field(default_factory=time.time_ns)
    output_tokens: int = 0
    last: TokenChunk | None = None
    first_timings: Timings | None = None

    def add(self, chunk: TokenChunk) -> None:
        """Count a chunk; before it is yielded, since the consumer may close at the yield."""
        self.output_tokens += len(chunk.token_ids)
        self.first_timings = self.first_timings or chunk.timings
        self.last = chunk


class GenerationRecorder:
    """Records the generations of one replica.

    Args:
        telemetry: Where to.
        model: The served id.
        replica: Names the replica among all of its model.
    """

    def __init__(self, telemetry: Telemetry, model: str, replica: str) -> None:
        self._telemetry = telemetry
        self._model = model
        self._replica = replica

    @contextmanager
    def generation(self, request: TokenRequest) -> Generator[GenerationRecord]:
        """Record the generation of the block, however it ends."""
        record = GenerationRecord()
        try:
            yield record
        except (GeneratorExit, asyncio.CancelledError) as error:
            self._record_closed(request, record, error)
            raise
        except BaseException as error:
            self._record_failure(request, record, error)
            raise
        else:
            if record.last is not None and record.last.finish is not None:
                scope = self._scope(request, record)
                record_generation_spans(self._telemetry, request.envelope, record.last.finish, scope)

    def _record_closed(self, request: TokenRequest, record: GenerationRecord, error: BaseException) -> None:
        first = record.first_timings
        if first is None:  # no token was made
            self._record_failure(request, record, error)
            return
        timings = Timings(
            first.arrived_unix_ns, first.scheduled_unix_ns, first.first_token_unix_ns, finished_unix_ns=time.time_ns()
        )
        scope = self._scope(request, record)
        record_generation_spans(self._telemetry, request.envelope, _ClosedEarly(timings), scope)

    def _record_failure(self, request: TokenRequest, record: GenerationRecord, error: BaseException) -> None:
        scope = self._scope(request, record)
        record_generation_failure(self._telemetry, request.envelope, scope, error, record.arrived_unix_ns)

    def _scope(self, request: TokenRequest, record: GenerationRecord) -> GenerationScope:
        return GenerationScope(self._model, self._replica, len(request.prompt_token_ids), record.output_tokens)
