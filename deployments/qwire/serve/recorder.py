"""Records what a replica did for a request once it is over: spans and measurements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
    """How a generation ended that its consumer closed, as its chunks say: what was computed after them is not in it."""

    timings: Timings
    cached_prompt_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    reason: Enum = _Closed.CLOSED


@dataclass(slots=True)
class GenerationRecord:
    """What came of one request so far."""

    arrived_unix_ns: int = field(default_factory=time.time_ns)
    output_tokens: int = 0
    first: TokenChunk | None = None
    last: TokenChunk | None = None

    def add(self, chunk: TokenChunk) -> None:
        """Take a chunk; before it is yielded, since the consumer may close at the yield."""
        if chunk.token_ids:
            self.output_tokens += len(chunk.token_ids)
            self.first = self.first or chunk
            self.last = chunk

    @property
    def closed(self) -> _ClosedEarly | None:
        """How it ended where its consumer closes it now; None = no token was made."""
        begun = self.first and self.first.timings
        if self.first is None or self.last is None or begun is None:
            return None
        return _ClosedEarly(
            replace(begun, finished_unix_ns=time.time_ns()),
            self.first.cached_prompt_tokens,
            self.last.drafted_tokens,
            self.last.accepted_tokens,
            self.last.preemptions,
        )


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
        closed = record.closed
        if closed is None:
            self._record_failure(request, record, error)
            return
        record_generation_spans(self._telemetry, request.envelope, closed, self._scope(request, record))

    def _record_failure(self, request: TokenRequest, record: GenerationRecord, error: BaseException) -> None:
        scope = self._scope(request, record)
        record_generation_failure(self._telemetry, request.envelope, scope, error, record.arrived_unix_ns)

    def _scope(self, request: TokenRequest, record: GenerationRecord) -> GenerationScope:
        return GenerationScope(self._model, self._replica, len(request.prompt_token_ids), record.output_tokens)
