"""ModelService, and models that come later."""

from __future__ import annotations

import pytest

from qwire.engine.fake import FakeEngine
from qwire.rpc.registry import ModelRegistry
from qwire.text.processor import TextProcessor
from qwire.v1 import generate_pb2, model_pb2, types_pb2
from tests.contract.edge import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS, Stubs, card_of, open_edge, served
from tests.contract.failure import failure_of


async def test_a_model_tells_what_it_is_and_can_do(stubs: Stubs, processor: TextProcessor):
    model = (await stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))).model
    card = card_of(processor)
    assert (model.id, model.revision, model.architecture) == ("tiny", card.revision, card.architecture)
    assert model.vocabulary_tokens == processor.vocabulary_tokens
    assert (model.limits.context_tokens, model.limits.max_output_tokens) == (CONTEXT_TOKENS, MAX_OUTPUT_TOKENS)
    assert model.weights_sha256 == card.weights_sha256
    assert list(model.end_of_sequence_token_ids) == sorted(card.eos_token_ids)
    assert model.quantization.method == model_pb2.QUANTIZATION_METHOD_NONE
    assert not model.default_sampling.HasField("seed")
    scalars = {one.name for one in types_pb2.SamplingOptions.DESCRIPTOR.fields if not one.is_repeated}
    assert {one.name for one, _ in model.default_sampling.ListFields()} == scalars - {"seed"}


async def test_capabilities_are_what_is_not_refused(stubs: Stubs):
    model = (await stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))).model
    assert {field.name for field, _ in model.capabilities.ListFields()} == {"chat", "logprobs", "resume"}


async def test_a_model_without_a_chat_template_refuses_conversations(processor: TextProcessor):
    plain = TextProcessor(processor._tokenizer, None)  # pyright: ignore[reportPrivateUsage] - no folder needed
    engine = FakeEngine(card=card_of(processor))
    async with open_edge([await served(plain, engine)]) as edge:
        model = (await edge.stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))).model
        assert not model.capabilities.chat
        chat = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role=types_pb2.ROLE_USER, text="hi")])
        spec = types_pb2.GenerationSpec(chat=chat)
        failure = await failure_of(edge.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
        assert failure.fields == {"spec.chat": "UNSUPPORTED"}
        failure = await failure_of(edge.stubs.generate.CountTokens(generate_pb2.CountTokensRequest(chat=chat)))
        assert (failure.reason, failure.fields) == ("UNSUPPORTED", {"chat": "UNSUPPORTED"})


async def test_models_are_listed_by_id_as_they_come(processor: TextProcessor):
    async with open_edge(expected=["b", "a"]) as edge:
        models, generate = edge.stubs.models, edge.stubs.generate.Generate
        assert not (await models.ListModels(model_pb2.ListModelsRequest())).models
        edge.registry.add(await served(processor, FakeEngine(card=card_of(processor, "b"))))
        listed = (await models.ListModels(model_pb2.ListModelsRequest())).models
        assert [model.id for model in listed] == ["b"]
        failure = await failure_of(models.GetModel(model_pb2.GetModelRequest(model="a")))
        assert (failure.code, failure.retry_after_s is not None) == ("UNAVAILABLE", True)
        failure = await failure_of(models.GetModel(model_pb2.GetModelRequest(model="c")))
        assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        spec = types_pb2.GenerationSpec(text="abc", model="b")
        assert (await generate(generate_pb2.GenerateRequest(spec=spec))).generation.started.model == "b"
        edge.registry.add(await served(processor, FakeEngine(card=card_of(processor, "a"))))
        listed = (await models.ListModels(model_pb2.ListModelsRequest())).models
        assert [model.id for model in listed] == ["a", "b"]


async def test_a_model_is_added_once(processor: TextProcessor):
    model = await served(processor, FakeEngine(card=card_of(processor)))
    with pytest.raises(ValueError, match="served already"):
        ModelRegistry(models=[model, model])
