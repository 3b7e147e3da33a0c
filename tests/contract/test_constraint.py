"""Constraints over the wire: what is asked for reaches the engine, and what cannot be used is told by its field."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.engine.config import EngineConfig
from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.fake import FakeEngine
from qwire.engine.local import LocalEngine
from qwire.models.checkpoint import Checkpoint
from qwire.rpc.registry import ServedModel
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from qwire.text.template import ChatTemplate
from qwire.v1 import generate_pb2, model_pb2, types_pb2
from qwire.v1.types_pb2 import ChoiceConstraint, GenerationSpec, OutputConstraint
from tests.contract.edge import CALM, Edge, Stubs, card_of, open_edge, served
from tests.contract.failure import failure_of
from tests.contract.thinker import TEMPLATE, chat, tools
from tests.support.tiny_checkpoint import write_tiny_checkpoint

INVALID = "INVALID_FIELD"
SCHEMA = '{"type": "boolean"}'


@pytest.fixture
def engine(processor: TextProcessor) -> FakeEngine:
    """Pretends to follow constraints."""
    return FakeEngine(card=replace(card_of(processor), constraints=True))


@pytest.fixture
async def real(tmp_path: Path) -> AsyncGenerator[Edge, None]:
    """A random model, one token per byte."""
    folder = write_tiny_checkpoint(tmp_path)
    checkpoint = Checkpoint(folder, "tiny", "revision", "", "w" * 64, "t" * 64)
    config = EngineConfig(
        device="cpu", threads=1, quantization="none", context_tokens=512, default_max_output_tokens=64
    )
    engine = await LocalEngine.start(checkpoint, config)
    card = await engine.card()
    model = ServedModel(card, Generator(TextProcessor.from_folder(folder), engine, card), engine)
    async with open_edge([model], config=CALM) as edge:
        yield edge
    await engine.close()


def request(**fields: object) -> generate_pb2.GenerateRequest:
    constraint = OutputConstraint(**fields)  # pyright: ignore[reportArgumentType] - any field
    return generate_pb2.GenerateRequest(spec=GenerationSpec(text="ab", constraint=constraint))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"json_schema": SCHEMA}, Constraint(ConstraintKind.JSON_SCHEMA, SCHEMA)),
        ({"json_object": True}, Constraint(ConstraintKind.JSON_OBJECT)),
        ({"regex": "a+"}, Constraint(ConstraintKind.REGEX, "a+")),
        ({"choice": ChoiceConstraint(choices=["a", "b"])}, Constraint(ConstraintKind.CHOICE, choices=("a", "b"))),
        ({"grammar": 'start: "a"'}, Constraint(ConstraintKind.GRAMMAR, 'start: "a"')),
    ],
)
async def test_the_engine_is_asked_for_it(
    stubs: Stubs, engine: FakeEngine, fields: dict[str, object], expected: Constraint
):
    await stubs.generate.Generate(request(**fields))
    assert engine.requests[-1].constraint == expected


CASES: dict[str, tuple[dict[str, object], str]] = {
    "nothing": ({}, "constraint"),
    "no schema": ({"json_schema": ""}, "constraint.json_schema"),
    "large schema": ({"json_schema": " " * 65_537}, "constraint.json_schema"),
    "no object": ({"json_object": False}, "constraint.json_object"),
    "no regex": ({"regex": ""}, "constraint.regex"),
    "large regex": ({"regex": "a" * 65_537}, "constraint.regex"),
    "no choice": ({"choice": ChoiceConstraint()}, "constraint.choice.choices"),
    "empty choice": ({"choice": ChoiceConstraint(choices=["a", ""])}, "constraint.choice.choices"),
    "many choices": ({"choice": ChoiceConstraint(choices=["a"] * 1025)}, "constraint.choice.choices"),
    "large choices": ({"choice": ChoiceConstraint(choices=["a" * 40_000] * 2)}, "constraint.choice"),
    "no grammar": ({"grammar": ""}, "constraint.grammar"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_field_out_of_range_is_named(stubs: Stubs, engine: FakeEngine, case: str):
    fields, field = CASES[case]
    failure = await failure_of(stubs.generate.Generate(request(**fields)))
    assert (failure.code, failure.fields) == ("INVALID_ARGUMENT", {f"spec.{field}": INVALID})
    assert not [one for one in engine.requests if one.constraint is not None]


CONFLICTS: dict[str, tuple[Callable[[GenerationSpec], object], str]] = {
    "ignore_eos": (lambda spec: setattr(spec.stop, "ignore_eos", True), "stop.ignore_eos"),
    "min_output_tokens": (lambda spec: setattr(spec.stop, "min_output_tokens", 1), "stop.min_output_tokens"),
}


@pytest.mark.parametrize("case", CONFLICTS)
async def test_what_contradicts_it_is_refused(stubs: Stubs, case: str):
    change, field = CONFLICTS[case]
    asked = request(regex="a")
    change(asked.spec)
    failure = await failure_of(stubs.generate.Generate(asked))
    assert failure.fields == {f"spec.{field}": INVALID}


async def test_a_conversation_that_leaves_no_room_for_it_is_refused(processor: TextProcessor, engine: FakeEngine):
    tokenizer = processor._tokenizer  # pyright: ignore[reportPrivateUsage] - which spells `</think>` letter by letter
    thinking = TextProcessor(tokenizer, ChatTemplate(TEMPLATE.read_text(encoding="utf-8")))
    constraint = OutputConstraint(regex="a")
    async with open_edge([await served(thinking, engine)]) as edge:
        generate = edge.stubs.generate.Generate
        for spec in (chat(constraint=constraint, tools=tools()), chat(constraint=constraint)):
            failure = await failure_of(generate(generate_pb2.GenerateRequest(spec=spec)))
            assert failure.fields == {"spec.constraint": INVALID}
        silent = chat(constraint=constraint, reasoning=types_pb2.ReasoningOptions(enabled=False))
        assert await generate(generate_pb2.GenerateRequest(spec=silent))


async def test_the_model_says_whether_it_can(stubs: Stubs, processor: TextProcessor):
    able = await stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))
    assert able.model.capabilities.constraints
    async with open_edge([await served(processor, FakeEngine(card=card_of(processor)))]) as edge:
        unable = await edge.stubs.models.GetModel(model_pb2.GetModelRequest(model="tiny"))
        assert not unable.model.capabilities.constraints


UNUSABLE: dict[str, dict[str, object]] = {
    "json_schema": {"json_schema": "{"},
    "json_schema keyword": {"json_schema": '{"not": {"type": "null"}}'},
    "regex": {"regex": "a("},
    "grammar": {"grammar": "start: nowhere"},
}


@pytest.mark.model
async def test_what_cannot_be_compiled_is_told_by_its_field(real: Edge):
    for case, fields in UNUSABLE.items():
        failure = await failure_of(real.stubs.generate.Generate(request(**fields)))
        assert (failure.code, failure.fields) == ("INVALID_ARGUMENT", {f"spec.constraint.{case.split()[0]}": INVALID})
    stray = request(regex="a{3}")
    stray.spec.resume.output_token_ids.append(0)
    stray.spec.sampling.seed = 1
    failure = await failure_of(real.stubs.generate.Generate(stray))
    assert failure.fields == {"spec.resume.output_token_ids": INVALID}


@pytest.mark.model
async def test_the_answer_matches(real: Edge):
    answer = await real.stubs.generate.Generate(request(choice=ChoiceConstraint(choices=["yes", "no"])))
    assert answer.generation.text in ("yes", "no")
    assert answer.generation.finished.reason == types_pb2.FINISH_REASON_END_OF_TURN
    answer = await real.stubs.generate.Generate(request(json_schema=SCHEMA))
    assert answer.generation.text.strip() in ("true", "false")
