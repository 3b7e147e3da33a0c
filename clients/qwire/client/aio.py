"""The asyncio client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack
from weakref import WeakSet

import grpc
import grpc.aio

from qwire.client.aio_call import ask
from qwire.client.aio_jobs import AsyncBatchJobs
from qwire.client.aio_repeating_call import AsyncRepeatingCalls
from qwire.client.aio_resuming_call import AsyncResumingCall
from qwire.client.aio_stream import AsyncBatchStream, AsyncGenerationStream, AsyncHealthStream
from qwire.client.batch import BatchResult
from qwire.client.batch_request import batch_items
from qwire.client.channel import DEFAULT_TARGET, open_aio_channel
from qwire.client.generation_options import BatchItem, GenerationOptions
from qwire.client.health import Health, Probe
from qwire.client.model import Adapter, Model, TokenCount
from qwire.client.options import ClientOptions
from qwire.client.prompt import Prompt
from qwire.client.request import count_request, generation_spec, stream_request
from qwire.client.result import Generation
from qwire.client.resume_point import ResumePoint
from qwire.client.timeout import deadline
from qwire.client.tool import Tool
from qwire.client.tracing import STREAM_GENERATE, trace_call
from qwire.client.watch import Watch
from qwire.v1 import batch_pb2, generate_pb2, health_pb2, model_pb2
from qwire.v1.batch_pb2_grpc import BatchServiceStub
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from qwire.v1.health_pb2_grpc import HealthServiceStub
from qwire.v1.model_pb2_grpc import ModelServiceStub


class AsyncClient:
    """Talks to a qwire server; belongs to the event loop that runs when it is made. `Client` is the same, blocking.

    Every method raises the typed errors of `qwire.client.errors`. `timeout_s` is in seconds, above 0; None takes the
    default of `ClientOptions`, `math.inf` means no limit.

    Attributes:
        jobs: Batch jobs, which outlive the call.

    Args:
        target: Where the server is: `host:port`, or any gRPC target such as `dns:///qwire:50051`.
        options: How to connect. None = all defaults.

    Raises:
        ValueError: The target is empty, or a timeout is not above 0.
        RuntimeError: A closed client is used, or no event loop runs where one is made.

    Example:
        async with AsyncClient("127.0.0.1:50051") as client:
            print((await client.generate("Name three rivers", max_output_tokens=64)).text)
    """

    def __init__(self, target: str = DEFAULT_TARGET, options: ClientOptions | None = None) -> None:
        self._options = options or ClientOptions()
        self._target = target
        self._closed = False
        self._streams = WeakSet[AsyncResumingCall]()
        self._repeating = AsyncRepeatingCalls(self._options.resume)
        asyncio.get_running_loop()  # fails here rather than, less clearly, in the first call
        self._channel = open_aio_channel(target, self._options)
        self._generate = GenerateServiceStub(self._channel)
        self._batch = BatchServiceStub(self._channel)
        self._model = ModelServiceStub(self._channel)
        self._health = HealthServiceStub(self._channel)
        self.jobs = AsyncBatchJobs(
            self._channel,
            lambda: self._control(None),
            self._options.model,
            lambda: Watch(self._options.resume, lambda: self._closed),
            self._repeating.pause,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; open calls end as Cancelled. Idempotent."""
        self._closed = True
        self._repeating.close()
        for stream in tuple(self._streams):
            stream.cancel()  # one that waits for its next attempt has no call that the channel could end
        await self._channel.close()

    async def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Unpack[GenerationOptions]
    ) -> Generation:
        """Return a whole generation. Where its server is lost it is asked for again, as `ClientOptions.resume` says."""
        request = generate_pb2.GenerateRequest(spec=generation_spec(prompt, self._with_model(options)))
        timeout = self._deadline(timeout_s, self._options.timeout_s)
        response = await self._repeating.make(self._generate.Generate, request, timeout)
        return Generation.from_proto(response.generation)

    def stream(
        self,
        prompt: Prompt,
        *,
        timeout_s: float | None = None,
        resume: ResumePoint | None = None,
        auto_resume: bool = True,
        **options: Unpack[GenerationOptions],
    ) -> AsyncGenerationStream:
        """Start a generation and return its stream of events.

        Args:
            prompt: What to continue.
            timeout_s: Bounds all of it, breaks included.
            resume: Go on with an interrupted generation, whose prompt and options are given again; the stream gives the
                rest. From `QwireError.resume_point`. None = a new one.
            auto_resume: Go on by itself where the stream breaks, as `ClientOptions.resume` says. To be able to, the
                client has the server report tokens even where `token_info` is False, and leaves them out.
            options: How to generate.
        """
        spec = generation_spec(prompt, self._with_model(options))
        request, reader = stream_request(spec, resume, resumable=auto_resume and self._options.resume is not None)
        timeout = self._deadline(timeout_s, self._options.timeout_s)
        call = AsyncResumingCall(
            self._start_stream,
            request,
            reader,
            timeout_s=timeout,
            options=self._options.resume if auto_resume else None,
            trace=trace_call(STREAM_GENERATE, request, self._target),
        )
        self._streams.add(call)
        return AsyncGenerationStream(call, reader)

    async def batch(
        self,
        items: Iterable[Prompt | BatchItem],
        *,
        timeout_s: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> tuple[BatchResult, ...]:
        """Run 1 to 256 generations and return every outcome, in the order of the items.

        An item that failed does not raise: `BatchResult.unwrap` does. `options` hold for items without their own.
        """
        request = batch_pb2.BatchGenerateRequest(items=batch_items(items, self._with_model(options)))
        response = await ask(self._batch.BatchGenerate, request, self._deadline(timeout_s, self._options.timeout_s))
        return tuple(map(BatchResult.from_proto, response.results))

    def stream_batch(
        self,
        items: Iterable[Prompt | BatchItem],
        *,
        timeout_s: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncBatchStream:
        """Run 1 to 256 generations and return the stream of their outcomes, in the order of landing."""
        request = batch_pb2.StreamBatchGenerateRequest(items=batch_items(items, self._with_model(options)))
        timeout = self._deadline(timeout_s, self._options.timeout_s)
        return AsyncBatchStream(self._batch.StreamBatchGenerate(request, timeout=timeout))

    async def count_tokens(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        system: str | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        reasoning: bool | None = None,
        timeout_s: float | None = None,
    ) -> TokenCount:
        """Return how many tokens a prompt has, chat template and tools included, without running the model."""
        request = count_request(prompt, model or self._options.model, system, tools, reasoning)
        return TokenCount.from_proto(await ask(self._generate.CountTokens, request, self._control(timeout_s)))

    async def cancel(self, generation_id: str, *, timeout_s: float | None = None) -> bool:
        """End a generation, whoever started it; its own call raises Cancelled. False = no such one waits or runs."""
        request = generate_pb2.CancelGenerationRequest(generation_id=generation_id)
        response = await ask(self._generate.CancelGeneration, request, self._control(timeout_s))
        return response.outcome == generate_pb2.CANCEL_OUTCOME_CANCELLED

    async def models(self, *, timeout_s: float | None = None) -> tuple[Model, ...]:
        """Return every served model, ordered by id."""
        response = await ask(self._model.ListModels, model_pb2.ListModelsRequest(), self._control(timeout_s))
        return tuple(map(Model.from_proto, response.models))

    async def model(self, model: str, *, timeout_s: float | None = None) -> Model:
        """Return one served model, or raise ModelNotFound."""
        response = await ask(self._model.GetModel, model_pb2.GetModelRequest(model=model), self._control(timeout_s))
        return Model.from_proto(response.model)

    async def adapters(self, model: str = "", *, timeout_s: float | None = None) -> tuple[Adapter, ...]:
        """Return the adapters that a model has now, ordered by id. Empty = the only served model."""
        request = model_pb2.ListAdaptersRequest(model=model or self._options.model)
        response = await ask(self._model.ListAdapters, request, self._control(timeout_s))
        return tuple(map(Adapter.from_proto, response.adapters))

    async def health(self, model: str = "", *, timeout_s: float | None = None) -> Health:
        """Return the present state of all models, or of one."""
        request = health_pb2.GetServingStateRequest(model=model)
        return Health.from_proto((await ask(self._health.GetServingState, request, self._control(timeout_s))).status)

    def watch_health(self, model: str = "", *, timeout_s: float | None = None) -> AsyncHealthStream:
        """Return a stream of the present state and every change of it. `timeout_s` None = no limit."""
        request = health_pb2.WatchServingStateRequest(model=model)
        return AsyncHealthStream(self._health.WatchServingState(request, timeout=self._deadline(timeout_s)))

    async def probe(self, model: str = "", *, timeout_s: float | None = None) -> Probe:
        """Have a model generate one real token; raise the error that it meets. Empty = the only served model."""
        request = health_pb2.ProbeModelRequest(model=model or self._options.model)
        return Probe.from_proto(await ask(self._health.ProbeModel, request, self._control(timeout_s)))

    def _start_stream(
        self, request: generate_pb2.StreamGenerateRequest, timeout_s: float | None
    ) -> grpc.aio.UnaryStreamCall[Any, generate_pb2.StreamGenerateResponse]:
        return self._generate.StreamGenerate(request, timeout=timeout_s)

    def _with_model(self, options: GenerationOptions) -> GenerationOptions:
        return {"model": self._options.model, **options}

    def _deadline(self, timeout_s: float | None, default_s: float = math.inf) -> float | None:
        if self._closed:  # gRPC itself may crash the process where a closed channel is used
            raise RuntimeError("the client is closed")
        return deadline(timeout_s, default_s)

    def _control(self, timeout_s: float | None) -> float | None:
        return self._deadline(timeout_s, self._options.control_timeout_s)
