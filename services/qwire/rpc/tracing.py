"""The outermost server interceptor: a span, a request id, a log context and one log line for every call."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue
from structlog.contextvars import bind_contextvars

from qwire.rpc.traced_call import Context, TracedCall
from qwire.telemetry import names
from qwire.telemetry.propagation import TraceFields, inject
from qwire.telemetry.setup import Telemetry

# Probes and tools call these all the time; their traces would drown those of the callers.
_UNTRACED = ("grpc.health.", "grpc.reflection.")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for the type checker only
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


def current_trace_fields() -> TraceFields:
    """Return the present call's trace context, `(traceparent, tracestate)`, for an `Envelope`."""
    return inject()


def annotate_call(
    *,
    operation: str | None = None,
    model: str | None = None,
    generation_id: str | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
    finish_reason: str | None = None,
) -> None:
    """Tell more of the present call, as it becomes known; None = nothing new.

    Model and generation id also appear on every log line of the call from now on.

    Args:
        operation: `chat` or `text_completion`.
        model: The id of the model that answers.
        generation_id: The generation's id.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens of the output.
        finish_reason: Why the generation ended.
    """
    told = {"model": model, "generation_id": generation_id}
    bind_contextvars(**{key: value for key, value in told.items() if value is not None})
    span = trace.get_current_span()
    if not span.is_recording():
        return
    attributes: dict[str, AttributeValue | None] = {
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
        names.GEN_AI_OPERATION_NAME: operation,
        names.GEN_AI_REQUEST_MODEL: model,
        names.GEN_AI_RESPONSE_ID: generation_id,
        names.GEN_AI_USAGE_INPUT_TOKENS: prompt_tokens,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: output_tokens,
        names.GEN_AI_RESPONSE_FINISH_REASONS: None if finish_reason is None else (finish_reason,),
    }
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})


def annotate_tenant(tenant: str) -> None:
    """Tell who calls, on the present call's span and on every log line of it from now on."""
    bind_contextvars(tenant=tenant)
    trace.get_current_span().set_attribute(names.TENANT, tenant)


class TracingInterceptor(grpc.aio.ServerInterceptor):
    """Traces, counts and logs every call but those of gRPC's own health and reflection services.

    Has to be the first interceptor. grpc.aio runs a call, its interceptors included, in one task of its own; so what is
    bound here to the task's context variables is seen by everything below, by nobody else, and goes with the task.
    A call that is refused by the server's `maximum_concurrent_rpcs` looks like a cancelled one from here.

    Args:
        telemetry: Where spans and measurements go.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Begin the call's span and wrap its handler so that the span ends with the handler."""
        method = handler_call_details.method.lstrip("/")
        if method.startswith(_UNTRACED):
            return await continuation(handler_call_details)
        call = TracedCall(self._telemetry, method, handler_call_details.invocation_metadata)
        try:
            handler = await continuation(handler_call_details)
        except BaseException:
            call.finish("UNKNOWN")
            raise
        if handler is None:
            call.finish_unknown_method()
            return None
        call.finish_with_task()
        return _wrapped(handler, call)


def _wrapped(handler: Handler, call: TracedCall) -> Handler:
    """Return a handler that does the same, observed by the call.

    Streams are written from here: a generator that is cancelled while its message is being sent would learn of it only
    when it is collected; like this it is closed in the call's own task, before the span ends.
    """
    kind = (handler.request_streaming, handler.response_streaming)
    behaviour: Any = getattr(handler, _KINDS[kind])

    async def unary(request: Any, context: Context) -> Any:
        with call.handled(context):
            return await behaviour(request, context)

    async def stream(request: Any, context: Context) -> None:
        with call.handled(context):
            if inspect.iscoroutinefunction(behaviour):
                await behaviour(request, context)
                return
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await context.write(response)

    factory: Callable[..., Handler] = getattr(grpc, f"{_KINDS[kind]}_rpc_method_handler")
    return factory(
        stream if handler.response_streaming else unary, _deserializer(handler, call), handler.response_serializer
    )


_KINDS: Mapping[tuple[bool, bool], str] = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _deserializer(handler: Handler, call: TracedCall) -> Callable[[bytes], Any] | None:
    deserialize = handler.request_deserializer
    if deserialize is None:
        return None

    def observed(message: bytes) -> Any:
        try:
            return deserialize(message)
        except Exception:
            call.finish("UNKNOWN")  # what grpc.aio answers
            raise

    return observed
