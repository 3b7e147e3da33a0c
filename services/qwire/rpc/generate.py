"""GenerateService: text from a model, whole, streamed, counted, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio
from typing_extensions import override

from qwire.engine.errors import InvalidRequest
from qwire.rpc.call import CURRENT_CALL
from qwire.rpc.fields import FieldChecker, require_known
from qwire.rpc.generation import GenerationRun
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.prompt import PromptConverter
from qwire.rpc.registry import ModelRegistry
from qwire.v1 import generate_pb2 as pb
from qwire.v1.generate_pb2_grpc import GenerateServiceServicer

_Context = grpc.aio.ServicerContext[Any, Any]


class GenerateService(GenerateServiceServicer):
    """Answers for every served model.

    Args:
        registry: The models.
        monitor: Is told of every token, as a sign of life.
    """

    def __init__(self, registry: ModelRegistry, monitor: HealthMonitor) -> None:
        self._registry = registry
        self._monitor = monitor

    @override
    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> pb.GenerateResponse:
        """Return a whole generation."""
        return pb.GenerateResponse(generation=await _run(request).whole(self._registry, self._monitor))

    @override
    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: _Context
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Yield a generation as it comes."""
        position = CURRENT_CALL.get().position
        position.output_tokens = len(request.spec.resume.output_token_ids)
        position.last_sequence = request.spec.resume.last_sequence
        async with aclosing(_run(request).responses(self._registry, self._monitor)) as responses:
            async for response in responses:
                position.output_tokens += len(response.delta.tokens)
                position.last_sequence = response.sequence
                yield response

    @override
    async def CountTokens(self, request: pb.CountTokensRequest, context: _Context) -> pb.CountTokensResponse:
        """Say how many tokens a prompt has."""
        model = self._registry.get(request.model)
        checker = FieldChecker()
        checker.only_known(request, "")
        converter = PromptConverter(checker, model.card, "", model.abilities)
        prompt = converter.of_count(request)
        checker.raise_if_any()
        return pb.CountTokensResponse(
            model=model.card.model_id,
            tokens=await asyncio.to_thread(model.generator.count, prompt),
            context_tokens=model.card.context_tokens,
        )

    @override
    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: _Context
    ) -> pb.CancelGenerationResponse:
        """End a generation wherever it runs."""
        require_known(request)
        if not request.generation_id:
            raise InvalidRequest("generation_id", "is required")
        found = await asyncio.gather(
            *(model.generator.cancel(request.generation_id) for model in self._registry.all()), return_exceptions=True
        )
        if True in found:
            return pb.CancelGenerationResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED)
        for outcome in found:
            if isinstance(outcome, BaseException):  # it may run there: the question is open
                raise outcome
        return pb.CancelGenerationResponse(outcome=pb.CANCEL_OUTCOME_NOT_RUNNING)


def _run(request: pb.GenerateRequest | pb.StreamGenerateRequest) -> GenerationRun:
    require_known(request)
    if not request.HasField("spec"):
        raise InvalidRequest("spec", "is required")
    call = CURRENT_CALL.get()
    return GenerationRun(request.spec, "spec", call, call.generation_id)
