"""Opens gRPC channels as `ClientOptions` say."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import grpc
import grpc.aio

from qwire.client.options import ClientOptions, TLSOptions
from qwire.client.tracing import aio_client_interceptors, client_interceptors

DEFAULT_TARGET = "127.0.0.1:50051"
"""Where a server listens unless told otherwise."""

ChannelArguments = list[tuple[str, str | int]]


def open_channel(target: str, options: ClientOptions) -> grpc.Channel:
    """Open a channel for the blocking client. It connects when the first call is made."""
    arguments = channel_arguments(options)
    _check(target)
    if options.tls is None:
        channel = grpc.insecure_channel(target, arguments)
    else:
        channel = grpc.secure_channel(target, _credentials(options.tls), arguments)
    interceptors = client_interceptors(target)
    return grpc.intercept_channel(channel, *interceptors) if interceptors else channel


def open_aio_channel(target: str, options: ClientOptions) -> grpc.aio.Channel:
    """Open a channel for the asyncio client. It connects when the first call is made."""
    arguments = channel_arguments(options)
    _check(target)
    interceptors = aio_client_interceptors(target)
    if options.tls is None:
        return grpc.aio.insecure_channel(target, arguments, interceptors=interceptors)
    return grpc.aio.secure_channel(target, _credentials(options.tls), arguments, interceptors=interceptors)


def channel_arguments(options: ClientOptions) -> ChannelArguments:
    """Return the gRPC channel arguments that the options stand for."""
    arguments: dict[str, str | int] = {
        "grpc.primary_user_agent": f"qwire-python/{_version()}",
        "grpc.max_receive_message_length": options.max_receive_bytes,
        "grpc.max_send_message_length": -1 if options.max_send_bytes is None else options.max_send_bytes,
        "grpc.enable_retries": int(options.retry is not None),
    }
    if options.retry is not None:
        arguments["grpc.service_config"] = options.retry.service_config()
    if options.resume is not None:
        # gRPC's own 1 s to 2 min: a server that is back would not be seen for as long.
        arguments |= {
            "grpc.initial_reconnect_backoff_ms": round(options.resume.initial_backoff_s * 1000),
            "grpc.max_reconnect_backoff_ms": round(options.resume.max_backoff_s * 1000),
        }
    if options.keepalive is not None:
        arguments |= {
            "grpc.keepalive_time_ms": round(options.keepalive.time_s * 1000),
            "grpc.keepalive_timeout_ms": round(options.keepalive.timeout_s * 1000),
            "grpc.keepalive_permit_without_calls": int(options.keepalive.without_calls),
            "grpc.http2.max_pings_without_data": 0,  # else gRPC stops pinging after two, and a long prefill looks idle
        }
    if options.tls is not None and options.tls.server_name is not None:
        arguments["grpc.ssl_target_name_override"] = options.tls.server_name
    return list((arguments | dict(options.channel_options)).items())


def _check(target: str) -> None:
    if not target:
        raise ValueError("target must not be empty: host:port is needed")


def _credentials(tls: TLSOptions) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(tls.root_certificates, tls.client_key, tls.client_certificate)


def _version() -> str:
    try:
        return version("qwire")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "unknown"
