"""Client interceptors that name the caller, so that servers share fairly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from qwire.client.call_details import CallDetails
from qwire.client.options import ClientOptions

_UnaryCall = grpc.aio.UnaryUnaryCall[Any, Any]
_StreamCall = grpc.aio.UnaryStreamCall[Any, Any]
_CallT = TypeVar("_CallT", _UnaryCall, _StreamCall)
_Metadatum = tuple[str, str]


def tenant_interceptors(options: ClientOptions) -> list[grpc.UnaryUnaryClientInterceptor]:
    """Return what to give to `grpc.intercept_channel`; nothing where the caller has no name."""
    return [_Interceptor((options.tenant_key, options.tenant))] if options.tenant else []


def aio_tenant_interceptors(options: ClientOptions) -> list[grpc.aio.ClientInterceptor]:
    """Return what to give to a `grpc.aio` channel, one interceptor per kind of call, as it wants them."""
    if not options.tenant:
        return []
    name = (options.tenant_key, options.tenant)
    return [_AioUnaryInterceptor(name), _AioStreamInterceptor(name)]


class _Interceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, name: _Metadatum) -> None:
        self._name = name

    def intercept_unary_unary(
        self, continuation: Callable[[grpc.ClientCallDetails, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._named(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[[grpc.ClientCallDetails, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._named(client_call_details), request)

    def _named(self, details: grpc.ClientCallDetails) -> CallDetails:
        return CallDetails(details, (*(details.metadata or ()), self._name))


class _AioUnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, name: _Metadatum) -> None:
        self._name = name

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[_UnaryCall]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> _UnaryCall:
        return await _named(continuation, client_call_details, request, self._name)


class _AioStreamInterceptor(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, name: _Metadatum) -> None:
        self._name = name

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[_StreamCall]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> _StreamCall:
        return await _named(continuation, client_call_details, request, self._name)


async def _named(
    continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[_CallT]],
    details: grpc.aio.ClientCallDetails,
    request: Any,
    name: _Metadatum,
) -> _CallT:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), name)
    named = grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )
    return await continuation(named, request)
