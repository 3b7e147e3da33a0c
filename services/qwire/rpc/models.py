"""ModelService: the models that are served, and what each can do."""

from __future__ import annotations

from typing import Any

import grpc.aio
from typing_extensions import override

from qwire.engine.errors import InvalidRequest
from qwire.rpc.fields import require_known
from qwire.rpc.model_message import adapter_message, model_message
from qwire.rpc.registry import ModelRegistry
from qwire.v1 import model_pb2 as pb
from qwire.v1.model_pb2_grpc import ModelServiceServicer

_Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(ModelServiceServicer):
    """Describes what a registry holds.

    Args:
        registry: The models.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    @override
    async def ListModels(self, request: pb.ListModelsRequest, context: _Context) -> pb.ListModelsResponse:
        """Return every model that can be asked by now."""
        require_known(request)
        return pb.ListModelsResponse(models=[model_message(model) for model in self._registry.all()])

    @override
    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        """Return one model."""
        require_known(request)
        if not request.model:
            raise InvalidRequest("model", "is required")
        return pb.GetModelResponse(model=model_message(self._registry.get(request.model)))

    @override
    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: _Context) -> pb.ListAdaptersResponse:
        """Return the adapters of one model."""
        require_known(request)
        infos = await self._registry.get(request.model).engine.adapters()
        return pb.ListAdaptersResponse(adapters=map(adapter_message, infos))
