"""Callers name themselves, and the engine learns it with each of their generations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.v1 import batch_pb2
from qwire.v1 import generate_pb2 as pb
from qwire.v1.types_pb2 import GenerationSpec
from tests.contract.edge import CONFIG, Edge, open_edge, served
from tests.contract.failure import collect, failure_of

SPEC = GenerationSpec(text="abc")
KEY = "x-qwire-tenant"


def tenants(engine: FakeEngine) -> list[str]:
    """Return those of the requests that callers made."""
    return [
        request.envelope.tenant for request in engine.requests if not request.envelope.request_id.startswith("probe-")
    ]


async def test_every_generation_of_a_call_has_its_tenant(edge: Edge, engine: FakeEngine):
    stubs, named = edge.stubs, ((KEY, "team-a:bob@example.org/1"),)
    await stubs.generate.Generate(pb.GenerateRequest(spec=SPEC), metadata=named)
    await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=SPEC), metadata=named))
    items = [batch_pb2.BatchItem(id=name, spec=SPEC) for name in "ab"]
    await stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=items), metadata=named)
    assert tenants(engine) == ["team-a:bob@example.org/1"] * 4
    await stubs.generate.Generate(pb.GenerateRequest(spec=SPEC))
    assert tenants(engine)[4:] == [""]


@pytest.mark.parametrize(
    "metadata", [((KEY, ""),), ((KEY, "two words"),), ((KEY, "x" * 65),), ((KEY, "a"), (KEY, "b"))]
)
async def test_what_is_no_name_is_refused(edge: Edge, engine: FakeEngine, metadata: tuple[tuple[str, str], ...]):
    failure = await failure_of(edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC), metadata=metadata))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert failure.fields == {f"metadata.{KEY}": "INVALID_FIELD"}
    assert tenants(engine) == []


@pytest.mark.parametrize(("key", "expected"), [("x-team", "b"), ("", "")])
async def test_the_key_is_the_operators_choice(processor: TextProcessor, engine: FakeEngine, key: str, expected: str):
    async with open_edge([await served(processor, engine)], config=replace(CONFIG, tenant_key=key)) as edge:
        metadata = ((KEY, "a"), ("x-team", "b"))
        await edge.stubs.generate.Generate(pb.GenerateRequest(spec=SPEC), metadata=metadata)
        assert tenants(engine) == [expected]


@pytest.mark.parametrize("key", ["X-Team", "team-bin", "grpc-team", "two words"])
def test_a_key_that_no_metadata_has_is_refused(key: str):
    with pytest.raises(ValueError, match="tenant_key must be"):
        replace(CONFIG, tenant_key=key)
