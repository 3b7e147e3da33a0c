"""The interceptor around every method: it parses, admits, bounds in time, and turns errors into statuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from qwire.engine.errors import QueueFull
from qwire.rpc.call import CURRENT_CALL, Call, new_generation_id
from qwire.rpc.config import ServerConfig
from qwire.rpc.errors import Draining, MalformedMessage, MessageTooLarge, RpcError, SlowReader
from qwire.rpc.method_rule import DEFAULT_RULE, RULES, MethodRule
from qwire.rpc.open_calls import OpenCalls
from qwire.rpc.status import code_of, is_mapped, status_of, trailers_of
from qwire.rpc.tenant import tenant_of
from qwire.rpc.tracing import annotate_tenant, current_trace_fields
from qwire.telemetry.logging import get_logger
from qwire.telemetry.redaction import exception_text

log = get_logger(__name__)

GENERATION_ID_KEY = "x-generation-id"

_BACKSTOP_S = 1.0
"""The engine ends a generation at its deadline and says so item by item; the guard ends the call this much later."""

_FULL_S = 1.0
"""When a server that has all the calls it may have is worth another try: nobody knows, and a refusal costs little."""

_STATUS_S = 5.0
"""How long a call may take to say how it ended; its generation has ended before."""

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for the type checker only


class CallGuard(grpc.aio.ServerInterceptor):
    """Guards every method with a single request; methods with a request stream (reflection) pass untouched.

    Args:
        config: Limits and deadlines.
        open_calls: Where calls that use a model are counted.
    """

    def __init__(self, config: ServerConfig, open_calls: OpenCalls) -> None:
        self._config = config
        self._open_calls = open_calls
        self.draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Return the method's handler with the guard around it."""
        handler = await continuation(handler_call_details)
        # grpc says None for a method that it does not know, and answers UNIMPLEMENTED.
        if handler is None or handler.request_streaming:
            return handler
        parse = self._parser(handler.request_deserializer)
        method = handler_call_details.method
        if handler.response_streaming:
            answer = self._stream(handler.unary_stream, method)
            return grpc.unary_stream_rpc_method_handler(answer, parse, handler.response_serializer)
        answer = self._unary(handler.unary_unary, method)
        return grpc.unary_unary_rpc_method_handler(answer, parse, handler.response_serializer)

    def _parser(self, parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        def parse_or_refuse(raw: bytes) -> Any:
            # Returned, not raised: grpc answers whatever a deserializer raises with UNKNOWN and its text.
            if len(raw) > self._config.max_message_bytes:
                return MessageTooLarge(len(raw), self._config.max_message_bytes)
            try:
                return parse(raw) if parse else raw
            except DecodeError:
                return MalformedMessage()

        return parse_or_refuse

    def _unary(self, behaviour: Any, method: str) -> Callable[[Any, Any], Any]:
        async def answer(request: Any, context: _Context) -> Any:
            async with self._guarded(request, context, method):
                return await behaviour(request, context)

        return answer

    def _stream(self, behaviour: Any, method: str) -> Callable[[Any, Any], Any]:
        # Writes instead of yielding: where a call ends while a message waits for the network, grpc leaves a generator
        # to the garbage collector, and the generation behind it would go on until then.
        async def answer(request: Any, context: _Context) -> None:
            async with self._guarded(request, context, method), aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await self._write(response, context)

        return answer

    async def _write(self, response: Any, context: _Context) -> None:
        """Send a message.

        Raises:
            SlowReader: The caller does not read, so that the network has had no room for it for too long.
        """
        timeout_s = self._config.write_stall_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await context.write(response)
        except TimeoutError:
            raise SlowReader(timeout_s) from None

    @asynccontextmanager
    async def _guarded(self, request: Any, context: _Context, method: str) -> AsyncGenerator[None, None]:
        rule = RULES.get(method, DEFAULT_RULE)
        call = self._call(context, method, rule)
        CURRENT_CALL.set(call)
        if call.generation_id:
            context.set_trailing_metadata((*context.trailing_metadata(), (GENERATION_ID_KEY, call.generation_id)))
        try:
            self._admit(request, rule)
            if rule.uses_model or rule.belongs_to_tenant:
                self._name_tenant(context, call)
            if not rule.uses_model:
                yield
                return
            with self._open_calls.enter():
                async with asyncio.timeout(_seconds_until(call.deadline_unix_ns) + _BACKSTOP_S):
                    yield
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError as error:
            # A message could not be sent: the caller has gone, and its cancellation is on the way.
            raise asyncio.CancelledError from error
        except asyncio.CancelledError:
            if not self._open_calls.was_evicted():
                raise
            await self._abort(context, Draining(), call)
        except Exception as error:  # noqa: BLE001 - the last place where an error can become a status
            await self._abort(context, error, call)

    def _name_tenant(self, context: _Context, call: Call) -> None:
        tenant = tenant_of(context.invocation_metadata() or (), self._config.tenant_key)
        if tenant:
            CURRENT_CALL.set(replace(call, tenant=tenant))
            annotate_tenant(tenant)

    def _admit(self, request: Any, rule: MethodRule) -> None:
        if isinstance(request, RpcError):
            raise request
        if rule.uses_model and self.draining:
            raise Draining
        if rule.uses_model and len(self._open_calls) >= self._config.max_open_calls:
            raise QueueFull(_FULL_S)

    def _call(self, context: _Context, method: str, rule: MethodRule) -> Call:
        deadline = None
        if rule.uses_model:
            bound_s = self._config.default_deadline_s
            remaining_s = context.time_remaining()
            # None where the caller set no deadline; the stubs do not say so.
            if remaining_s is not None:  # pyright: ignore[reportUnnecessaryComparison]
                bound_s = remaining_s
            deadline = time.time_ns() + int(min(bound_s, self._config.max_deadline_s) * 1e9)
        return Call(
            method=method,
            arrived_ns=time.monotonic_ns(),
            deadline_unix_ns=deadline,
            generation_id=new_generation_id() if rule.one_generation else "",
            tenant="",
            trace=current_trace_fields(),
        )

    async def _abort(self, context: _Context, error: BaseException, call: Call) -> None:
        if not is_mapped(error):
            log_defect(error, call)
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:  # pyright: ignore[reportUnnecessaryComparison] - as above
            # gRPC has told the caller, and takes no status any more: it would lose memory over it (grpc/grpc#43360).
            raise asyncio.CancelledError
        status = status_of(error, generation_id=call.generation_id, position=call.position.as_metadata())
        trailers = (*context.trailing_metadata(), *trailers_of(status))
        try:
            async with asyncio.timeout(_STATUS_S):
                await context.abort(code_of(status), status.message, trailers)
        except (TimeoutError, grpc.aio.InternalError):
            # The caller does not read, so that the status waits behind what was sent before; or it has gone meanwhile.
            raise asyncio.CancelledError from None


def log_defect(error: BaseException, call: Call) -> None:
    """Log an error that the status table does not know: where it happened, without what it says."""
    log.error("call_failed", method=call.method, exception=exception_text(error, withhold=True))


def _seconds_until(unix_ns: int | None) -> float:
    return 0.0 if unix_ns is None else (unix_ns - time.time_ns()) / 1e9
