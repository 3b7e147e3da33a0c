"""Clients that are not ours list the services and stream an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.interop.conftest import ANSWER
from tests.interop.foreign import (
    ForeignClientFailed,
    is_there,
    services_by_buf,
    services_by_grpcurl,
    stream_with_buf,
    stream_with_grpcurl,
    stream_with_node,
)

_needs_node = pytest.mark.skipif(not (is_there("node") and is_there("npm")), reason="node or npm is not installed")
_CLIENTS = [
    pytest.param(stream_with_node, marks=_needs_node, id="node"),
    pytest.param(stream_with_buf, id="buf"),
    pytest.param(stream_with_grpcurl, id="grpcurl"),
]

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("stream", _CLIENTS)
async def test_an_answer_is_streamed(server_address: str, stream: Callable[..., str]) -> None:
    assert await asyncio.to_thread(stream, server_address, "hi", max_output_tokens=100) == ANSWER


@pytest.mark.parametrize("stream", _CLIENTS)
async def test_an_error_tells_its_field(server_address: str, stream: Callable[..., str]) -> None:
    with pytest.raises(ForeignClientFailed, match=r"max_output_tokens"):
        await asyncio.to_thread(stream, server_address, "hi", max_output_tokens=1_000_000)


@pytest.mark.parametrize("list_services", [services_by_buf, services_by_grpcurl])
async def test_reflection_lists_the_services(server_address: str, list_services: Callable[[str], set[str]]) -> None:
    assert await asyncio.to_thread(list_services, server_address) >= {
        "grpc.health.v1.Health",
        "qwire.v1.BatchService",
        "qwire.v1.GenerateService",
        "qwire.v1.HealthService",
        "qwire.v1.ModelService",
    }
