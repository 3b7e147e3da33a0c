"""A client's name goes with each of its calls."""

from __future__ import annotations

from typing import Any

import pytest

from qwire.client import AsyncClient, Client, ClientOptions
from qwire.client.testing import FakeServer


def test_a_blocking_client_names_itself_on_every_kind_of_call() -> None:
    with FakeServer("four") as server, Client(server.target, ClientOptions(tenant="team-a")) as client:
        client.generate("2 + 2")
        assert client.stream("2 + 2").generation().text == "four"
        client.models()
        assert {call.metadata["x-qwire-tenant"] for call in server.calls} == {"team-a"}
        assert len(server.calls) == 3


async def test_an_asyncio_client_names_itself_on_every_kind_of_call() -> None:
    options = ClientOptions(tenant="team-a", tenant_key="x-team")
    with FakeServer("four") as server:
        async with AsyncClient(server.target, options) as client:
            await client.generate("2 + 2")
            assert (await client.stream("2 + 2").generation()).text == "four"
            await client.models()
        assert {call.metadata["x-team"] for call in server.calls} == {"team-a"}
        assert len(server.calls) == 3


def test_a_client_without_a_name_sends_none() -> None:
    with FakeServer("four") as server, Client(server.target) as client:
        client.generate("2 + 2")
        assert "x-qwire-tenant" not in server.calls[0].metadata


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tenant": "two words"}, "tenant"),
        ({"tenant": "x" * 65}, "tenant"),
        ({"tenant_key": "X-Tenant"}, "tenant_key"),
        ({"tenant_key": "tenant-bin"}, "tenant_key"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be"):
        ClientOptions(**options)
