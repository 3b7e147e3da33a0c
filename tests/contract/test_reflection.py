"""Reflection, v1 and v1alpha: services are listed and every one can be described."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2 as pb

from qwire.rpc.server import SERVICES
from tests.contract.edge import Stubs

EXPECTED = {
    *SERVICES,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def ask(channel: grpc.aio.Channel, version: str, requests: Iterable[pb.ServerReflectionRequest]) -> list[Any]:
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    return [response async for response in method(iter(requests))]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_every_listed_service_can_be_described(version: str, stubs: Stubs):
    (listed,) = await ask(stubs.channel, version, [pb.ServerReflectionRequest(list_services="*")])
    names = {service.name for service in listed.list_services_response.service}
    assert names == EXPECTED
    requests = [pb.ServerReflectionRequest(file_containing_symbol=name) for name in sorted(names)]
    pool = descriptor_pool.DescriptorPool()
    for response in await ask(stubs.channel, version, requests):
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in response.file_descriptor_response.file_descriptor_proto
        ]
        assert files
        add(pool, files)
    for name in names:
        assert pool.FindServiceByName(name).methods


def add(pool: descriptor_pool.DescriptorPool, files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """Add files to a pool, dependencies first."""
    by_name = {file.name: file for file in files}

    def add_one(name: str) -> None:
        for dependency in by_name[name].dependency:
            add_one(dependency)
        pool.AddSerializedFile(by_name[name].SerializeToString())

    for name in by_name:
        add_one(name)
