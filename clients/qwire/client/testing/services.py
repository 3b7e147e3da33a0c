"""The services of a fake server; `qwire.client.testing.jobs` has one more."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration

from qwire.client.testing.generation import END_OF_TURN_TOKEN_ID, ScriptedFailure, gather, play, prompt_tokens
from qwire.client.testing.script import Failure
from qwire.client.testing.state import ServerState
from qwire.v1 import batch_pb2, generate_pb2, health_pb2, model_pb2, types_pb2
from qwire.v1.batch_pb2_grpc import BatchServiceServicer
from qwire.v1.generate_pb2_grpc import GenerateServiceServicer
from qwire.v1.health_pb2_grpc import HealthServiceServicer
from qwire.v1.model_pb2_grpc import ModelServiceServicer

_CONTEXT_TOKENS = 4096


def _require_model(state: ServerState, model: str, context: grpc.ServicerContext) -> str:
    if model and model not in state.models:
        metadata = {"model": model}
        message = f"model {model!r} is not served"
        failure = Failure(code=grpc.StatusCode.NOT_FOUND, reason="MODEL_NOT_FOUND", message=message, metadata=metadata)
        failure.abort(context)
    return model or state.models[0]


class FakeGenerate(GenerateServiceServicer):
    """Answers from the script."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def Generate(  # noqa: N802 - the RPC's name
        self, request: generate_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> generate_pb2.GenerateResponse:
        """Answer whole."""
        self._state.enter("Generate", request, context)
        _require_model(self._state, request.spec.model, context)
        try:
            return generate_pb2.GenerateResponse(generation=gather(play(self._state, request.spec, context)))
        except ScriptedFailure as scripted:
            scripted.failure.abort(context)

    def StreamGenerate(  # noqa: N802 - the RPC's name
        self, request: generate_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[generate_pb2.StreamGenerateResponse]:
        """Answer word by word."""
        self._state.enter("StreamGenerate", request, context)
        _require_model(self._state, request.spec.model, context)
        try:
            yield from play(self._state, request.spec, context, streams=True)
        except ScriptedFailure as scripted:
            scripted.failure.abort(context)

    def CountTokens(  # noqa: N802 - the RPC's name
        self, request: generate_pb2.CountTokensRequest, context: grpc.ServicerContext
    ) -> generate_pb2.CountTokensResponse:
        """Count words."""
        self._state.enter("CountTokens", request, context)
        model = _require_model(self._state, request.model, context)
        return generate_pb2.CountTokensResponse(
            model=model, tokens=prompt_tokens(request), context_tokens=_CONTEXT_TOKENS
        )

    def CancelGeneration(  # noqa: N802 - the RPC's name
        self, request: generate_pb2.CancelGenerationRequest, context: grpc.ServicerContext
    ) -> generate_pb2.CancelGenerationResponse:
        """End a running stream or call."""
        self._state.enter("CancelGeneration", request, context)
        found = self._state.cancel(request.generation_id)
        return generate_pb2.CancelGenerationResponse(
            outcome=generate_pb2.CANCEL_OUTCOME_CANCELLED if found else generate_pb2.CANCEL_OUTCOME_NOT_RUNNING
        )


class FakeBatch(BatchServiceServicer):
    """Answers items one after the other, each with the next answer of the script."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def BatchGenerate(  # noqa: N802 - the RPC's name
        self, request: batch_pb2.BatchGenerateRequest, context: grpc.ServicerContext
    ) -> batch_pb2.BatchGenerateResponse:
        """Answer all items."""
        self._state.enter("BatchGenerate", request, context)
        return batch_pb2.BatchGenerateResponse(results=[self._run(item, context) for item in request.items])

    def StreamBatchGenerate(  # noqa: N802 - the RPC's name
        self, request: batch_pb2.StreamBatchGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[batch_pb2.StreamBatchGenerateResponse]:
        """Answer each item as it lands, then the total."""
        self._state.enter("StreamBatchGenerate", request, context)
        finished = batch_pb2.BatchFinished()
        for sequence, item in enumerate(request.items, start=1):
            result = self._run(item, context)
            if result.HasField("generation"):
                finished.succeeded += 1
                finished.usage.prompt_tokens += result.generation.finished.usage.prompt_tokens
                finished.usage.output_tokens += result.generation.finished.usage.output_tokens
            else:
                finished.failed += 1
            yield batch_pb2.StreamBatchGenerateResponse(sequence=sequence, result=result)
        yield batch_pb2.StreamBatchGenerateResponse(sequence=len(request.items) + 1, finished=finished)

    def _run(self, item: batch_pb2.BatchItem, context: grpc.ServicerContext) -> batch_pb2.BatchItemResult:
        try:
            return batch_pb2.BatchItemResult(id=item.id, generation=gather(play(self._state, item.spec, context)))
        except ScriptedFailure as scripted:
            return batch_pb2.BatchItemResult(id=item.id, error=scripted.failure.status())


class FakeModels(ModelServiceServicer):
    """Describes models that do not exist."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def ListModels(  # noqa: N802 - the RPC's name
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        """List them, ordered by id."""
        self._state.enter("ListModels", request, context)
        return model_pb2.ListModelsResponse(models=[_model(name, self._state) for name in sorted(self._state.models)])

    def GetModel(  # noqa: N802 - the RPC's name
        self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetModelResponse:
        """Describe one."""
        self._state.enter("GetModel", request, context)
        return model_pb2.GetModelResponse(
            model=_model(_require_model(self._state, request.model, context), self._state)
        )

    def ListAdapters(  # noqa: N802 - the RPC's name
        self, request: model_pb2.ListAdaptersRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListAdaptersResponse:
        """List those of the script, the same for every model."""
        self._state.enter("ListAdapters", request, context)
        _require_model(self._state, request.model, context)
        adapters = [model_pb2.Adapter(id=name, rank=16) for name in sorted(self._state.adapters)]
        return model_pb2.ListAdaptersResponse(adapters=adapters)


class FakeHealth(HealthServiceServicer):
    """Tells the state that the test has set."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def GetServingState(  # noqa: N802 - the RPC's name
        self, request: health_pb2.GetServingStateRequest, context: grpc.ServicerContext
    ) -> health_pb2.GetServingStateResponse:
        """Tell it."""
        self._state.enter("GetServingState", request, context)
        _require_model(self._state, request.model, context)
        return health_pb2.GetServingStateResponse(status=self._state.serving_status())

    def WatchServingState(  # noqa: N802 - the RPC's name
        self, request: health_pb2.WatchServingStateRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.WatchServingStateResponse]:
        """Tell it, and every change."""
        self._state.enter("WatchServingState", request, context)
        _require_model(self._state, request.model, context)

        def wake() -> None:
            with self._state.changed:
                self._state.changed.notify_all()

        context.add_callback(wake)
        sequence, told = 0, None
        while context.is_active():
            with self._state.changed:
                present = self._state.serving_state
                if present is told:
                    self._state.changed.wait(timeout=1.0)
                    continue
            sequence, told = sequence + 1, present
            yield health_pb2.WatchServingStateResponse(sequence=sequence, status=self._state.serving_status())

    def ProbeModel(  # noqa: N802 - the RPC's name
        self, request: health_pb2.ProbeModelRequest, context: grpc.ServicerContext
    ) -> health_pb2.ProbeModelResponse:
        """Pretend to generate a token."""
        self._state.enter("ProbeModel", request, context)
        model = _require_model(self._state, request.model, context)
        response_time = Duration(nanos=20_000_000)
        return health_pb2.ProbeModelResponse(model=model, token_id=END_OF_TURN_TOKEN_ID, response_time=response_time)


def _model(name: str, state: ServerState) -> model_pb2.Model:
    return model_pb2.Model(
        id=name,
        revision="fake",
        architecture="FakeForCausalLM",
        parameters=494_032_768,
        vocabulary_tokens=151_936,
        limits=model_pb2.ModelLimits(
            context_tokens=_CONTEXT_TOKENS, max_output_tokens=_CONTEXT_TOKENS - 1, default_max_output_tokens=512
        ),
        capabilities=model_pb2.ModelCapabilities(chat=True, adapters=bool(state.adapters), logprobs=True),
        quantization=model_pb2.Quantization(
            method=model_pb2.QUANTIZATION_METHOD_INT8, bits=8, compute_dtype="float32", source_format="Q4_K_M"
        ),
        default_sampling=types_pb2.SamplingOptions(temperature=0.7, top_k=20, top_p=0.8),
        end_of_sequence_token_ids=[END_OF_TURN_TOKEN_ID],
        weights_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
    )
