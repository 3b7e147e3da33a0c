"""Options reach the channel and the calls, and bad ones are refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import version

import pytest

from qwire.client import AsyncClient, Client, ClientOptions, KeepaliveOptions, RetryOptions, TLSOptions
from qwire.client.channel import channel_arguments
from qwire.client.testing import FakeServer


def test_the_defaults_are_those_of_the_manual() -> None:
    arguments = dict(channel_arguments(ClientOptions()))
    config = json.loads(str(arguments.pop("grpc.service_config")))
    assert config["methodConfig"] == [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.100000000s",
                "maxBackoff": "1.000000000s",
                "backoffMultiplier": 2.0,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
    assert "retryThrottling" not in config
    assert arguments == {
        "grpc.primary_user_agent": f"qwire-python/{version('qwire')}",
        "grpc.max_receive_message_length": 16 * 1024 * 1024,
        "grpc.max_send_message_length": -1,
        "grpc.enable_retries": 1,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 5000,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }


def test_channel_options_of_the_caller_win_by_key() -> None:
    options = ClientOptions(
        channel_options=(("grpc.keepalive_time_ms", 60_000), ("grpc.lb_policy_name", "round_robin"))
    )
    arguments = channel_arguments(options)
    assert dict(arguments)["grpc.keepalive_time_ms"] == 60_000
    assert dict(arguments)["grpc.lb_policy_name"] == "round_robin"
    assert len(arguments) == len(dict(arguments))


def test_keepalive_and_retries_can_be_left_out() -> None:
    arguments = dict(channel_arguments(ClientOptions(keepalive=None, retry=None)))
    assert not [key for key in arguments if "keepalive" in key or "service_config" in key]
    assert arguments["grpc.enable_retries"] == 0


def test_the_server_sees_who_calls() -> None:
    with FakeServer() as server, Client(server.target) as client:
        client.models()
        assert str(server.calls[0].metadata["user-agent"]).startswith(f"qwire-python/{version('qwire')} ")


_DEADLINES: list[tuple[Callable[[Client], object], float | None]] = [
    (lambda client: client.generate("hi"), 500.0),
    (lambda client: client.batch(["hi"]), 500.0),
    (lambda client: client.models(), 20.0),
    (lambda client: client.generate("hi", timeout_s=7), 7.0),
    (lambda client: client.health(timeout_s=7), 7.0),
    (lambda client: client.generate("hi", timeout_s=math.inf), None),
    (lambda client: next(client.watch_health()), None),
    (lambda client: next(client.watch_health(timeout_s=7)), 7.0),
]


@pytest.mark.parametrize(("call", "at_most_s"), _DEADLINES)
def test_each_call_has_its_deadline(call: Callable[[Client], object], at_most_s: float | None) -> None:
    options = ClientOptions(timeout_s=500, control_timeout_s=20)
    with FakeServer() as server, Client(server.target, options) as client:
        call(client)
        remaining_s = server.calls[0].time_remaining_s
    if at_most_s is None:
        assert remaining_s is None
    else:
        assert remaining_s is not None
        assert at_most_s / 2 < remaining_s <= at_most_s + 2  # gRPC rounds up to its units


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan])
def test_a_timeout_that_cannot_be_is_refused(timeout_s: float) -> None:
    with Client() as client, pytest.raises(ValueError, match="timeout_s must be above 0 seconds"):
        client.generate("hi", timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: ClientOptions(timeout_s=0), "timeout_s"),
        (lambda: ClientOptions(control_timeout_s=math.nan), "control_timeout_s"),
        (lambda: ClientOptions(max_receive_bytes=0), "max_receive_bytes"),
        (lambda: ClientOptions(max_send_bytes=0), "max_send_bytes"),
        (lambda: RetryOptions(max_attempts=6), "max_attempts"),
        (lambda: RetryOptions(max_attempts=1), "max_attempts"),
        (lambda: RetryOptions(initial_backoff_s=0), "initial_backoff_s"),
        (lambda: RetryOptions(max_backoff_s=0.01), "max_backoff_s"),
        (lambda: RetryOptions(backoff_multiplier=0), "backoff_multiplier"),
        (lambda: RetryOptions(throttle_tokens=0), "throttle_tokens"),
        (lambda: RetryOptions(throttle_token_ratio=0), "throttle_token_ratio"),
        (lambda: KeepaliveOptions(time_s=1), "time_s"),
        (lambda: KeepaliveOptions(timeout_s=0), "timeout_s"),
        (lambda: TLSOptions(client_key=b"key"), "client_certificate and client_key"),
        (lambda: TLSOptions(client_certificate=b"certificate"), "client_certificate and client_key"),
    ],
)
def test_bad_options_are_refused_by_name(build: Callable[[], object], option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be "):
        build()


def test_a_private_key_is_not_shown() -> None:
    assert "secret" not in repr(TLSOptions(client_certificate=b"public", client_key=b"secret"))


async def test_a_closed_client_says_so() -> None:
    with FakeServer() as server:
        blocking = Client(server.target)
        blocking.close()
        blocking.close()
        for call in (lambda: blocking.generate("hi"), lambda: blocking.stream("hi"), blocking.watch_health):
            with pytest.raises(RuntimeError, match="the client is closed"):
                call()
        client = AsyncClient(server.target)
        await client.close()
        await client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.models()


def test_an_asyncio_client_needs_its_event_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient()
