"""Both clients reach every RPC of the contract, and are the same but for `await`."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor

import qwire.v1
from qwire.client import AsyncBatchJobs, AsyncClient, BatchJobs, Client, QwireError
from qwire.client.testing import FakeServer

# One way of a client to each RPC. An RPC that is added to the contract makes the test below fail until it has one.
_WAYS: dict[str, Callable[[Any], Any]] = {
    "Generate": lambda client: client.generate("hi"),
    "StreamGenerate": lambda client: client.stream("hi"),
    "CountTokens": lambda client: client.count_tokens("hi"),
    "CancelGeneration": lambda client: client.cancel("some-id"),
    "BatchGenerate": lambda client: client.batch(["hi"]),
    "StreamBatchGenerate": lambda client: client.stream_batch(["hi"]),
    "CreateBatchJob": lambda client: client.jobs.create(),
    "AppendBatchItems": lambda client: client.jobs.upload("none", ["hi"], seal=False),
    "SealBatchJob": lambda client: client.jobs.upload("none", []),
    "GetBatchJob": lambda client: client.jobs.get("none"),
    "ListBatchJobs": lambda client: client.jobs.list(),
    "CancelBatchJob": lambda client: client.jobs.cancel("none"),
    "DeleteBatchJob": lambda client: client.jobs.delete("none"),
    "CancelBatchItems": lambda client: client.jobs.cancel_items("none", ["a"]),
    "RetryBatchItems": lambda client: client.jobs.retry("none"),
    "ListBatchResults": lambda client: client.jobs.items("none"),
    "WatchBatchJob": lambda client: client.jobs.watch("none"),
    "ListModels": lambda client: client.models(),
    "GetModel": lambda client: client.model("fake"),
    "ListAdapters": lambda client: client.adapters(),
    "GetServingState": lambda client: client.health(),
    "WatchServingState": lambda client: client.watch_health(),
    "ProbeModel": lambda client: client.probe(),
}


def _rpcs_of_the_contract() -> set[str]:
    modules = [import_module(f"qwire.v1.{module.name}") for module in pkgutil.iter_modules(qwire.v1.__path__)]
    files = [module.DESCRIPTOR for module in modules if isinstance(getattr(module, "DESCRIPTOR", None), FileDescriptor)]
    return {method.name for file in files for service in file.services_by_name.values() for method in service.methods}


def test_every_rpc_has_a_way_and_every_way_an_rpc() -> None:
    assert set(_WAYS) == _rpcs_of_the_contract()


@pytest.mark.parametrize("rpc", sorted(_WAYS))
def test_blocking_client_reaches(rpc: str) -> None:
    with FakeServer() as server, Client(server.target) as client:
        with suppress(QwireError, StopIteration):  # there is no such job
            reply = _WAYS[rpc](client)
            if hasattr(reply, "__next__"):
                next(reply)
                (reply.cancel if hasattr(reply, "cancel") else reply.close)()
        assert [call.method for call in server.calls] == [rpc]


@pytest.mark.parametrize("rpc", sorted(_WAYS))
async def test_asyncio_client_reaches(rpc: str) -> None:
    with FakeServer() as server:
        async with AsyncClient(server.target) as client:
            with suppress(QwireError, StopAsyncIteration):  # there is no such job
                reply = _WAYS[rpc](client)
                if not hasattr(reply, "__anext__"):
                    await reply
                elif hasattr(reply, "cancel"):
                    await anext(reply)
                    reply.cancel()
                else:
                    await anext(reply)
                    await reply.aclose()
        assert [call.method for call in server.calls] == [rpc]


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name: [str(parameter) for parameter in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)
    assert methods(BatchJobs) == methods(AsyncBatchJobs)
    assert set(methods(Client)) == {
        "adapters",
        "batch",
        "cancel",
        "close",
        "count_tokens",
        "generate",
        "health",
        "model",
        "models",
        "probe",
        "stream",
        "stream_batch",
        "watch_health",
    }
