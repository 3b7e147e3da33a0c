"""Adapters as a caller sees them: listed, asked for by name, refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from qwire.engine.errors import AdapterUnusable, EngineUnavailable
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import AdapterInfo
from qwire.text.processor import TextProcessor
from qwire.v1 import batch_pb2, generate_pb2, model_pb2
from qwire.v1.types_pb2 import GenerationSpec, ResumePoint
from tests.contract.edge import Edge, Stubs, card_of, open_edge, served
from tests.contract.failure import Failure, failure_of

INFOS = (
    AdapterInfo("legal", 16, loaded=True, sha256="b" * 64),
    AdapterInfo("spoiled", 0, problem="adapter_config.json is not JSON"),
)


@pytest.fixture
def engine(processor: TextProcessor) -> FakeEngine:
    engine = FakeEngine(card=replace(card_of(processor), adapters=True))
    engine.adapter_infos = INFOS
    return engine


@pytest.fixture
async def edge(processor: TextProcessor, engine: FakeEngine) -> AsyncGenerator[Edge, None]:
    async with open_edge([await served(processor, engine)]) as edge:
        yield edge


async def test_adapters_are_listed_with_what_is_known(stubs: Stubs):
    response = await stubs.models.ListAdapters(model_pb2.ListAdaptersRequest())
    assert list(response.adapters) == [
        model_pb2.Adapter(id="legal", rank=16, loaded=True, sha256="b" * 64),
        model_pb2.Adapter(id="spoiled", problem="adapter_config.json is not JSON"),
    ]
    model = (await stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))).model
    assert model.capabilities.adapters


async def test_the_adapter_reaches_the_engine(stubs: Stubs, engine: FakeEngine):
    spec = GenerationSpec(text="abc", adapter="legal", resume=ResumePoint(output_token_ids=[65]))
    spec.sampling.temperature = 0
    await stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec))
    assert (engine.requests[-1].adapter, engine.requests[-1].output_token_ids) == ("legal", (65,))
    await stubs.generate.Generate(generate_pb2.GenerateRequest(spec=GenerationSpec(text="abc")))
    assert engine.requests[-1].adapter == ""


async def test_an_unknown_adapter_is_not_found(stubs: Stubs):
    spec = GenerationSpec(text="abc", adapter="unknown")
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "ADAPTER_NOT_FOUND")
    assert failure.metadata["adapter"] == "unknown"


async def test_an_adapter_that_cannot_be_applied_says_why(stubs: Stubs, engine: FakeEngine):
    engine.fail_after, engine.failure = 0, AdapterUnusable("spoiled", "it uses use_dora, which is not supported")
    spec = GenerationSpec(text="abc", adapter="spoiled")
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ADAPTER_UNUSABLE")
    assert failure.metadata["adapter"] == "spoiled"
    assert "use_dora" in failure.message
    items = [batch_pb2.BatchItem(id="0", spec=spec)]
    (result,) = (await stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=items))).results
    assert Failure.of_status(result.error).reason == "ADAPTER_UNUSABLE"


@pytest.mark.parametrize("adapter", ["..", ".a", "a/b", "../legal", "x" * 129, "a b", "ä", "a\n"])
async def test_what_cannot_be_a_name_is_refused_by_its_field(stubs: Stubs, engine: FakeEngine, adapter: str):
    spec = GenerationSpec(text="abc", adapter=adapter)
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert (failure.code, failure.fields) == ("INVALID_ARGUMENT", {"spec.adapter": "INVALID_FIELD"})
    assert adapter not in [request.adapter for request in engine.requests]


async def test_adapters_of_a_model_that_is_not_there(stubs: Stubs, engine: FakeEngine):
    failure = await failure_of(stubs.models.ListAdapters(model_pb2.ListAdaptersRequest(model="other")))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    await engine.close()
    failure = await failure_of(stubs.models.ListAdapters(model_pb2.ListAdaptersRequest(model="tiny")))
    assert failure.code == "UNAVAILABLE"
    # The other facts of a model are known all the same.
    assert (await stubs.models.ListModels(model_pb2.ListModelsRequest())).models
    with pytest.raises(EngineUnavailable):
        await engine.adapters()


async def test_a_model_without_adapters_lists_none(processor: TextProcessor):
    async with open_edge([await served(processor, FakeEngine(card=card_of(processor)))]) as edge:
        response = await edge.stubs.models.ListAdapters(model_pb2.ListAdaptersRequest(model="tiny"))
        assert list(response.adapters) == []
