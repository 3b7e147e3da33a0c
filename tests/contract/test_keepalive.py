"""Pings on a connection without calls: allowed as often as on one with calls, and not more often."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest

from qwire.v1.model_pb2 import ListModelsRequest
from tests.contract.edge import CALM, open_edge

PINGING = (
    ("grpc.keepalive_time_ms", 300),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


@pytest.mark.parametrize("allowed", [True, False])
async def test_an_idle_connection_that_pings(*, allowed: bool):
    config = replace(CALM, min_ping_interval_s=0.05 if allowed else 60.0)
    async with open_edge(config=config, channel_options=PINGING) as edge:
        channel = edge.stubs.channel
        await edge.stubs.models.ListModels(ListModelsRequest())
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        disconnected = asyncio.ensure_future(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        await asyncio.wait((disconnected,), timeout=2 if allowed else 30)
        assert disconnected.done() is not allowed
        disconnected.cancel()
