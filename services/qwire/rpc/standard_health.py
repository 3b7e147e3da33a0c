"""grpc.health.v1, told by the same monitor: for the server as a whole, each of its services and each model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer
from typing_extensions import override

from qwire.rpc.errors import ServiceNotFound
from qwire.rpc.health_check import serves
from qwire.rpc.monitor import HealthMonitor

MODEL_PREFIX = "model/"
"""The health of the model `m` is asked for as the service `model/m`."""

_Context = grpc.aio.ServicerContext[Any, Any]


class StandardHealth(HealthServicer):
    """Check, Watch and List. READY and DEGRADED are SERVING, everything else is NOT_SERVING.

    Args:
        monitor: Watches the models.
        services: Full names of the services that need a model to be of use; they share the state of the whole.
    """

    def __init__(self, monitor: HealthMonitor, services: Sequence[str]) -> None:
        self._monitor = monitor
        self._services = ("", *services)

    @override
    async def Check(self, request: pb.HealthCheckRequest, context: _Context) -> pb.HealthCheckResponse:
        """Return the present status, or NOT_FOUND."""
        status = self._statuses().get(request.service)
        if status is None:
            raise ServiceNotFound
        return pb.HealthCheckResponse(status=status)

    @override
    async def Watch(self, request: pb.HealthCheckRequest, context: _Context) -> AsyncIterator[pb.HealthCheckResponse]:
        """Yield the present status and every change of it; SERVICE_UNKNOWN where there is no such service."""
        last = None
        async with aclosing(self._monitor.changes()) as changes:
            async for _ in changes:
                status = self._statuses().get(request.service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != last:
                    yield pb.HealthCheckResponse(status=status)
                last = status

    @override
    async def List(  # pyright: ignore[reportGeneralTypeIssues] - types-grpcio does not know List yet
        self, request: Any, context: _Context
    ) -> Any:
        """Return the present status of everything."""
        statuses = {name: pb.HealthCheckResponse(status=status) for name, status in self._statuses().items()}
        return pb.HealthListResponse(statuses=statuses)  # pyright: ignore[reportAttributeAccessIssue] - the same

    def _statuses(self) -> dict[str, pb.HealthCheckResponse.ServingStatus]:
        status = self._monitor.status()
        states = dict.fromkeys(self._services, status.state)
        states |= {f"{MODEL_PREFIX}{model.model}": model.state for model in status.models}
        return {
            name: pb.HealthCheckResponse.SERVING if serves(state) else pb.HealthCheckResponse.NOT_SERVING
            for name, state in states.items()
        }
