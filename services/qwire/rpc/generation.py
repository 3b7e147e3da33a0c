"""One generation of a call: from its spec to its events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from qwire.engine.errors import InvalidRequest
from qwire.rpc.call import Call
from qwire.rpc.errors import ResponseTooLarge
from qwire.rpc.generation_builder import GenerationBuilder
from qwire.rpc.generation_message import (
    CHANNELS,
    call_message,
    finished_message,
    fragment_message,
    prompt_message,
    started_message,
    token_messages,
)
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.pulse import ModelPulse
from qwire.rpc.registry import ModelRegistry, ServedModel
from qwire.rpc.spec import SpecConverter
from qwire.rpc.tracing import annotate_call
from qwire.telemetry import names
from qwire.text.event import Delta, Finished, GenerationEvent, PromptRead, Started, ToolCalled
from qwire.text.read_ahead import BufferBudget
from qwire.v1 import generate_pb2
from qwire.v1 import types_pb2 as pb


class GenerationRun:
    """Runs one spec, once.

    Args:
        spec: What to generate.
        path: Where the spec is in its request, such as `spec` or `items[2].spec`.
        call: The call that asks.
        generation_id: Names the generation.
    """

    def __init__(self, spec: pb.GenerationSpec, path: str, call: Call, generation_id: str) -> None:
        self._spec = spec
        self._path = path
        self._call = call
        self._generation_id = generation_id
        self._token_info = not spec.output.HasField("token_info") or spec.output.token_info
        # A batch has many generations, and the call's span tells of none of them.
        self._names_call = generation_id == call.generation_id
        self._asked_ns = time.monotonic_ns()
        self._first_token_ns: int | None = None

    async def responses(
        self, registry: ModelRegistry, monitor: HealthMonitor, budget: BufferBudget
    ) -> AsyncGenerator[generate_pb2.StreamGenerateResponse, None]:
        """Yield `started`, the prompt, deltas and tool calls, `finished`, in dense sequence.

        Args:
            registry: The served models.
            monitor: Is told of every token, as a sign of life.
            budget: How far the engine may be ahead of who iterates.

        Raises:
            RpcError: The spec is at fault, or its model is not there.
            EngineError: The generation failed; its `InvalidRequest` names the field by its path in the request.
        """
        model = registry.get(self._spec.model)
        pulse = monitor.pulse(model.card.model_id)
        sequence = self._spec.resume.last_sequence
        async with aclosing(self._events(model, budget)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    if event.token_ids:
                        self._note_token(pulse)
                    delta = self._delta(event)
                    if delta is None:
                        continue
                    response = generate_pb2.StreamGenerateResponse(delta=delta)
                elif isinstance(event, ToolCalled):
                    response = generate_pb2.StreamGenerateResponse(tool_call=call_message(event))
                elif isinstance(event, PromptRead):
                    response = generate_pb2.StreamGenerateResponse(prompt=prompt_message(event))
                elif isinstance(event, Started):
                    response = generate_pb2.StreamGenerateResponse(started=self._started(event, model))
                else:
                    response = generate_pb2.StreamGenerateResponse(finished=self._finished(event))
                sequence += 1
                response.sequence = sequence
                yield response

    async def whole(
        self, registry: ModelRegistry, monitor: HealthMonitor, budget: BufferBudget, max_bytes: int
    ) -> pb.Generation:
        """Return the whole generation; other arguments and errors as of `responses`.

        Args:
            registry: The served models.
            monitor: Is told of every token, as a sign of life.
            budget: How far the engine may be ahead.
            max_bytes: The largest message to return.

        Raises:
            ResponseTooLarge: It would be larger; the generation ends as soon as that is known.
        """
        size, builder = 0, GenerationBuilder()
        async with aclosing(self.responses(registry, monitor, budget)) as responses:
            async for response in responses:
                size += response.ByteSize()
                if size > max_bytes:
                    raise ResponseTooLarge(max_bytes)
                builder.add(response)
        return builder.generation()

    async def _events(self, model: ServedModel, budget: BufferBudget) -> AsyncGenerator[GenerationEvent, None]:
        converter = SpecConverter(self._spec, model.card, self._path, model.abilities)
        request = converter.convert(self._call.envelope(self._generation_id))
        try:
            async with aclosing(model.generator.stream(request, budget)) as events:
                async for event in events:
                    yield event
        except InvalidRequest as error:
            raise type(error)(f"{self._path}.{error.field}", error.description) from error

    def _started(self, event: Started, model: ServedModel) -> pb.GenerationStarted:
        if self._names_call:
            annotate_call(
                operation=names.CHAT if self._spec.HasField("chat") else names.TEXT_COMPLETION,
                model=model.card.model_id,
                generation_id=self._generation_id,
                prompt_tokens=event.prompt_tokens,
            )
        return started_message(event, model.card, self._generation_id)

    def _finished(self, event: Finished) -> pb.GenerationFinished:
        if self._names_call:
            annotate_call(output_tokens=event.output_tokens, finish_reason=event.reason.value)
        return finished_message(event, self._call.elapsed_ns(), self._first_token_ns)

    def _note_token(self, pulse: ModelPulse) -> None:
        if self._first_token_ns is None:
            self._first_token_ns = self._call.elapsed_ns()
            # Not from the call's arrival: a batch item waits for its turn before anything is asked of the model.
            pulse.answered((time.monotonic_ns() - self._asked_ns) / 1e9)
        pulse.beat()

    def _delta(self, event: Delta) -> generate_pb2.GenerationDelta | None:
        """Return the delta's message; None where there is nothing that the caller asked to be told."""
        told = self._token_info and event.token_ids
        if not (told or event.text or event.fragments):
            return None
        return generate_pb2.GenerationDelta(
            channel=CHANNELS[event.channel],
            text=event.text,
            tokens=token_messages(event.token_ids, event.logprobs) if told else [],
            tool_call_fragments=map(fragment_message, event.fragments),
        )
