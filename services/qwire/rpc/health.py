"""HealthService: whether the models can answer, and why not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio
from typing_extensions import override

from qwire.rpc.call import CURRENT_CALL
from qwire.rpc.fields import require_known
from qwire.rpc.generation_message import duration_message
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.v1 import health_pb2 as pb
from qwire.v1.health_pb2_grpc import HealthServiceServicer

_Context = grpc.aio.ServicerContext[Any, Any]


class HealthService(HealthServiceServicer):
    """Tells what a monitor knows.

    Args:
        registry: The models.
        monitor: Watches them.
    """

    def __init__(self, registry: ModelRegistry, monitor: HealthMonitor) -> None:
        self._registry = registry
        self._monitor = monitor

    @override
    async def GetServingState(
        self, request: pb.GetServingStateRequest, context: _Context
    ) -> pb.GetServingStateResponse:
        """Return the present state."""
        require_known(request)
        return pb.GetServingStateResponse(status=self._monitor.status(request.model))

    @override
    async def WatchServingState(
        self, request: pb.WatchServingStateRequest, context: _Context
    ) -> AsyncIterator[pb.WatchServingStateResponse]:
        """Yield the present state and every change of it."""
        require_known(request)
        sequence = 0
        async with aclosing(self._monitor.changes(request.model)) as changes:
            async for status in changes:
                sequence += 1
                yield pb.WatchServingStateResponse(sequence=sequence, status=status)

    @override
    async def ProbeModel(self, request: pb.ProbeModelRequest, context: _Context) -> pb.ProbeModelResponse:
        """Generate one real token."""
        require_known(request)
        model = self._registry.get(request.model)
        result = await self._monitor.probe(model, CURRENT_CALL.get().deadline_unix_ns)
        return pb.ProbeModelResponse(
            model=model.card.model_id,
            token_id=result.token_id,
            response_time=duration_message(int(result.response_time_s * 1e9)),
        )
