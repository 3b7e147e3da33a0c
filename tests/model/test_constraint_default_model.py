"""The default model answers as it is told to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import pytest
from jsonschema import Draft202012Validator

from qwire.engine.chunk import FinishReason
from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.checkpoint import Checkpoint
from tests.model.constrained import Text, choice, output_of, schema

pytestmark = [pytest.mark.default_model, pytest.mark.timeout(600)]

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 30},
        "country": {"type": "string", "minLength": 1, "maxLength": 30},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "country", "capital"],
    "additionalProperties": False,
}


@pytest.fixture
async def engine(default_checkpoint: Checkpoint) -> AsyncGenerator[LocalEngine, None]:
    engine = await LocalEngine.start(default_checkpoint, EngineConfig(device="cpu", quantization="none"))
    yield engine
    await engine.close()


async def test_a_question_is_answered_in_valid_json(default_checkpoint: Checkpoint, engine: LocalEngine):
    text = Text(default_checkpoint.folder)
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert (await engine.card()).constraints
    prompt = tuple(text.write(chat.format("Tell me about Paris as JSON, with city, country and capital.")))
    token_ids, reason = await output_of(
        engine, TokenRequest(prompt, Envelope("json"), StopParams(100), constraint=schema(CITY))
    )
    answer = json.loads(text.read(token_ids))
    Draft202012Validator(CITY).validate(answer)
    assert (reason, answer["city"], answer["country"]) == (FinishReason.END_OF_TURN, "Paris", "France")
    prompt = tuple(text.write(chat.format("Is the sky blue on a clear day?")))
    token_ids, reason = await output_of(
        engine, TokenRequest(prompt, Envelope("choice"), StopParams(20), constraint=choice("No.", "Yes."))
    )
    assert (reason, text.read(token_ids)) == (FinishReason.END_OF_TURN, "Yes.")
