"""Generates the items of batch jobs, as BatchService generates those of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from hashlib import sha256

from qwire.batch.item import LeasedItem
from qwire.batch.job import ItemState, Tokens
from qwire.batch.work import Ended, Interrupted
from qwire.engine.errors import DeadlineExceeded, EngineUnavailable, NumericalError, QueueFull, ReplicasLost
from qwire.rpc.batch_job_message import PRIORITY_MESSAGES
from qwire.rpc.call import Call, new_generation_id
from qwire.rpc.errors import ModelNotReady
from qwire.rpc.generation import GenerationRun
from qwire.rpc.generation_builder import GenerationBuilder
from qwire.rpc.guard import log_defect
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.status import is_mapped, status_of
from qwire.telemetry.propagation import TraceFields
from qwire.text.read_ahead import BufferBudget
from qwire.v1 import types_pb2

_BUDGET = BufferBudget(0, 0)
"""Nothing is read ahead: what takes the events is never slow."""
METHOD = "batch-job-item"
"""Stands for the method of a call in logs."""


class BatchWorkshop:
    """See `qwire.batch.work.Workshop`.

    Args:
        registry: The models.
        monitor: Is told of every token, as a sign of life.
    """

    def __init__(self, registry: ModelRegistry, monitor: HealthMonitor) -> None:
        self._registry = registry
        self._monitor = monitor

    def begin(self, item: LeasedItem) -> BatchWork:
        """Return an attempt at an item."""
        return BatchWork(item, self._registry, self._monitor)


class BatchWork:
    """See `qwire.batch.work.Work`.

    Args:
        item: What to generate.
        registry: The models.
        monitor: Is told of every token.
    """

    def __init__(self, item: LeasedItem, registry: ModelRegistry, monitor: HealthMonitor) -> None:
        self._registry = registry
        self._monitor = monitor
        self._generation_id = new_generation_id()
        self._call = Call(
            method=METHOD,
            arrived_ns=time.monotonic_ns(),
            deadline_unix_ns=item.expires_ns,
            generation_id="",
            trace=TraceFields(None, None),
            tenant=item.tenant,
        )
        begun = types_pb2.Generation.FromString(item.partial)
        self._spec, self._tells_tokens = _spec_of(item, begun)
        self._builder = GenerationBuilder(begun)
        self._partial = item.partial
        self._resumable = False

    async def run(self, taken: Callable[[], None]) -> Ended | Interrupted:
        """Generate, and say how it ended."""
        try:
            generation = await self._generate(taken)
        except Exception as error:  # noqa: BLE001 - an item's failure is its own, and becomes its outcome
            return self._failed(error)
        usage = generation.finished.usage
        tokens = Tokens(usage.prompt_tokens, usage.output_tokens, usage.cached_prompt_tokens, usage.reasoning_tokens)
        return Ended(ItemState.SUCCEEDED, generation.SerializeToString(), tokens)

    def partial(self) -> bytes:
        """Return the generation so far; none with an adapter, whose files may be others at the next attempt."""
        if self._resumable and not self._spec.adapter:
            self._partial = self._builder.generation().SerializeToString()
            self._resumable = False
        return self._partial

    async def _generate(self, taken: Callable[[], None]) -> types_pb2.Generation:
        run = GenerationRun(self._spec, "spec", self._call, self._generation_id)
        async with aclosing(run.responses(self._registry, self._monitor, _BUDGET)) as responses:
            async for response in responses:
                self._builder.add(response)
                if response.HasField("started"):
                    taken()
                # A call comes right before the token that completes it: between the two, the tokens do not tell of it.
                self._resumable = response.HasField("delta")
        generation = self._builder.generation()
        if not self._tells_tokens:
            del generation.tokens[:]
        return generation

    def _failed(self, error: Exception) -> Ended | Interrupted:
        status = status_of(error, generation_id=self._generation_id).SerializeToString()
        match error:
            case QueueFull():
                return Interrupted(status, failed=False, overloaded=True, retry_after_s=error.retry_after_s)
            case EngineUnavailable() | ModelNotReady():
                return Interrupted(status, failed=False, retry_after_s=error.retry_after_s)
            case DeadlineExceeded():
                return Interrupted(status, failed=False)  # the job's: it expires
            case NumericalError() | ReplicasLost():
                return Interrupted(status, failed=True)
            case _ if is_mapped(error):
                return Ended(ItemState.FAILED, status)
            case _:
                log_defect(error, self._call)
                return Interrupted(status, failed=True)


def _spec_of(item: LeasedItem, begun: types_pb2.Generation) -> tuple[types_pb2.GenerationSpec, bool]:
    """Return what to generate, and whether its caller wants the tokens told."""
    spec = types_pb2.GenerationSpec.FromString(item.spec)
    spec.priority = PRIORITY_MESSAGES[item.priority]
    tells_tokens = not spec.output.HasField("token_info") or spec.output.token_info
    spec.output.token_info = True  # a resumed attempt needs them
    if not spec.sampling.HasField("seed"):
        # Every attempt has to draw what the first one would have drawn.
        lease = item.lease
        spec.sampling.seed = int.from_bytes(sha256(f"{lease.job_id} {lease.number}".encode()).digest()[:8], "big")
    if begun.tokens:
        spec.resume.output_token_ids.extend(token.id for token in begun.tokens)
    return spec, tells_tokens
