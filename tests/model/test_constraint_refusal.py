"""A constraint that cannot be used is refused by its field; one that fails midway fails alone."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from qwire.engine import matcher, matcher_factory
from qwire.engine.chunk import FinishReason
from qwire.engine.constraint import MAX_CHOICES, Constraint, ConstraintKind
from qwire.engine.errors import DeadlineExceeded, GenerationCancelled, InvalidRequest, QueueFull
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams
from tests.model.constrained import (
    SAMPLED,
    Text,
    asking,
    choice,
    grammar,
    output_of,
    refusal_of,
    regex,
    resumed,
    schema,
)
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("refusing"))


UNUSABLE = {
    "no json": Constraint(ConstraintKind.JSON_SCHEMA, "{"),
    "pasted json": Constraint(ConstraintKind.JSON_SCHEMA, '{}}, {"lark_grammar": "start: /a/"'),
    "nan": Constraint(ConstraintKind.JSON_SCHEMA, '{"const": NaN}'),
    "deep json": Constraint(ConstraintKind.JSON_SCHEMA, "[" * 60_000),
    "deep schema": Constraint(ConstraintKind.JSON_SCHEMA, '{"items":' * 5_000 + "{}" + "}" * 5_000),
    "no schema": schema([]),
    "nothing": schema(False),  # noqa: FBT003 - the schema
    "unknown type": schema({"type": "list"}),
    "not": schema({"not": {"type": "string"}}),
    "unique": schema({"type": "array", "uniqueItems": True}),
    "one of": schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    "remote": schema({"$ref": "https://example.com/schema.json"}),
    "dangling": schema({"$ref": "#/$defs/none"}),
    "format": schema({"type": "string", "format": "shoe-size"}),
    "pattern of a format": schema({"type": "string", "format": "json-pointer"}),
    "if": schema({"if": {"type": "integer"}, "then": {"minimum": 1}}),
    "contains": schema({"type": "array", "contains": {"type": "integer"}}),
    "property names": schema({"type": "object", "propertyNames": {"pattern": "^a"}}),
    "dependent required": schema({"type": "object", "dependentRequired": {"a": ["b"]}}),
    "dependent schemas": schema({"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}),
    "unevaluated properties": schema({"type": "object", "unevaluatedProperties": False}),
    "unevaluated items": schema({"type": "array", "unevaluatedItems": False}),
    "dynamic reference": schema({"$dynamicRef": "#node"}),
    "below": schema({"type": "object", "properties": {"a": {"items": {"not": {}}}}}),
    "definition": schema({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"contains": {}}]}}}),
    "library": schema({"not": {}, "x-guidance": {"lenient": True}}),
    "contradiction": schema({"type": "integer", "minimum": 2, "maximum": 1}),
    "lookahead": schema({"type": "string", "pattern": "^(?=a)b$"}),
    "huge": schema({"enum": ["x" * 70_000]}),
    "no regex": regex("a("),
    "back reference": regex(r"(a)\1"),
    "empty regex": regex(""),
    "impossible regex": regex(r"[^\s\S]"),
    "empty grammar": grammar(""),
    "no start": grammar('begin: "a"'),
    "undefined": grammar("start: rest"),
    "library json": grammar('{"grammars": [{"json_schema": {"not": {}, "x-guidance": {"lenient": true}}}]}'),
    "no choice": choice(),
    "empty choice": choice("a", ""),
    "many choices": choice(*map(str, range(MAX_CHOICES + 1))),
}


async def test_what_cannot_be_used_is_refused_by_its_field(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder)
    for name, constraint in UNUSABLE.items():
        error = await refusal_of(engine, asking(name, constraint))
        expected = constraint.field + (".choices" if constraint.kind is ConstraintKind.CHOICE else "")
        assert error.field == expected, name
        assert len(error.description) < 500, name
    assert (await output_of(engine, asking("after", choice("a"))))[1] is FinishReason.END_OF_TURN


@pytest.mark.parametrize(
    ("stop", "field"),
    [
        (StopParams(10, ignore_eos=True), "stop.ignore_eos"),
        (StopParams(10, min_output_tokens=1), "stop.min_output_tokens"),
    ],
)
async def test_what_contradicts_an_end_is_refused(
    folder: Path, start_engine: StartEngine, stop: StopParams, field: str
):
    engine = await start_engine(folder)
    assert (await refusal_of(engine, replace(asking("stop", choice("a")), stop=stop))).field == field


async def test_a_checkpoint_without_a_tokenizer_takes_no_constraints(tiny_qwen2: Path, start_engine: StartEngine):
    engine = await start_engine(tiny_qwen2)
    assert not (await engine.card()).constraints
    assert (await refusal_of(engine, asking("any", choice("a")))).field == "constraint"


@pytest.mark.parametrize("name", ["after_token_id", "opening_token_id"])
async def test_a_token_that_begins_the_constraint_must_exist(folder: Path, start_engine: StartEngine, name: str):
    engine = await start_engine(folder)
    beyond = (await engine.card()).vocabulary_tokens
    late = replace(choice("a"), **{"after_token_id": 1, name: beyond})
    assert (await refusal_of(engine, asking("late", late))).field == "constraint"


async def test_output_that_does_not_match_cannot_be_resumed(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder)
    (eos,) = (await engine.card()).eos_token_ids
    write = Text(folder).write
    request = asking("resume", choice("yes", "no"))
    for token_ids in (write("x"), write("yex"), write("yess"), [eos], [*write("no"), eos], [eos, *write("no")]):
        assert (await refusal_of(engine, resumed(request, token_ids))).field == "resume.output_token_ids"
    assert await output_of(engine, resumed(request, write("yes"))) == ([eos], FinishReason.END_OF_TURN)


async def test_a_matcher_that_gives_up_fails_alone(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder, max_running=4)
    # The library takes no more than some thousand ways to go on.
    properties = {f"p{index}": {"type": "string", "minLength": 3, "maxLength": 1000} for index in range(1000)}
    hopeless = asking("hopeless", schema({"type": "object", "properties": properties}), SAMPLED)
    others = [asking("free", None, SAMPLED, 30), asking("bound", choice("yes", "no"))]
    alone = [await output_of(engine, request) for request in others]
    failed, *rest = await asyncio.gather(
        *(output_of(engine, request) for request in (hopeless, *others)), return_exceptions=True
    )
    assert isinstance(failed, InvalidRequest)
    assert failed.field == "constraint.json_schema"
    assert rest == alone


async def test_constraints_that_cannot_be_used_touch_nobody_else(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder, max_running=8)
    others = [asking("free", None, SAMPLED, 60), asking("bound", regex("[a-f]{40}"), SAMPLED), asking("greedy", None)]
    alone = [await output_of(engine, request) for request in others]
    running = [asyncio.create_task(output_of(engine, request)) for request in others]
    for name in ("not", "no regex", "no start", "contradiction", "no choice", "deep schema"):
        assert (await refusal_of(engine, asking(name, UNUSABLE[name], SAMPLED))).field
    assert await asyncio.gather(*running) == alone


class _Panic(BaseException):
    """As the library's panics, which are no Exception."""


class _BreakingMatcher:
    """The library's matcher, which breaks after five tokens of one grammar."""

    def __init__(self, tokenizer: LLTokenizer, grammar: str, **options: Any) -> None:
        self._matcher = LLMatcher(tokenizer, grammar, **options)
        self._left = 5 if "z{20}" in grammar else 1000

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)

    def consume_token(self, token_id: int) -> bool:
        self._left -= 1
        if self._left < 0:
            raise _Panic
        return self._matcher.consume_token(token_id)


async def test_a_matcher_that_breaks_fails_alone(
    folder: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
):
    engine = await start_engine(folder, max_running=4)
    others = [asking("free", None, SAMPLED, 30), asking("bound", regex("[a-f]{20}"), SAMPLED)]
    alone = [await output_of(engine, request) for request in others]
    monkeypatch.setattr(matcher, "LLMatcher", _BreakingMatcher)
    failed, *rest = await asyncio.gather(
        *(output_of(engine, request) for request in (asking("broken", regex("z{20}")), *others)),
        return_exceptions=True,
    )
    assert isinstance(failed, InvalidRequest)
    assert (failed.field, "6 tokens" in failed.description) == ("constraint.regex", True)
    assert rest == alone
    assert (await output_of(engine, asking("after", choice("a"))))[1] is FinishReason.END_OF_TURN


async def test_a_generation_can_be_cancelled_while_its_grammar_compiles(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder)
    task = asyncio.ensure_future(output_of(engine, asking("slow", schema({"type": "object"}))))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequest, match="runs already"):
        await output_of(engine, asking("slow", None))
    assert await engine.cancel("slow")
    assert not await engine.cancel("slow")
    with pytest.raises(GenerationCancelled):
        await task
    assert (await engine.stats()).running == 0


def test_constraints_cross_processes():
    constraint = replace(schema({"type": "object"}), after_token_id=3)
    assert pickle.loads(pickle.dumps(asking("a", constraint))).constraint == constraint  # noqa: S301 - our own
    assert json.loads(constraint.text) == {"type": "object"}


async def test_who_waits_for_others_grammars_is_not_to_blame(
    folder: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(matcher_factory, "_COMPILE_S", 4.0)
    engine = await start_engine(folder, max_running=16)
    await output_of(engine, asking("vocabulary", choice("a")))
    make = matcher_factory.MatcherFactory._make  # pyright: ignore[reportPrivateUsage] - to be slow on purpose

    def slowly(*arguments: Any) -> matcher.Matcher:
        time.sleep(0.5)
        return make(*arguments)

    monkeypatch.setattr(matcher_factory.MatcherFactory, "_make", slowly)
    crowd = [asking(f"waits {index}", choice("yes", "no")) for index in range(12)]
    late = replace(asking("late", choice("yes")), envelope=Envelope("late", deadline_unix_ns=time.time_ns() + 10**8))
    *outputs, refused = await asyncio.gather(
        *(output_of(engine, request) for request in (*crowd, late)), return_exceptions=True
    )
    assert [output for output in outputs if isinstance(output, BaseException)] == []
    assert isinstance(refused, DeadlineExceeded)
    assert not engine._preparation._under_way  # pyright: ignore[reportPrivateUsage]


async def test_only_so_many_wait_for_their_grammars_but_for_the_admitted(
    folder: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
):
    engine = await start_engine(folder, max_running=1, max_waiting=1)
    make = matcher_factory.MatcherFactory._make  # pyright: ignore[reportPrivateUsage] - to be slow on purpose
    gate = threading.Event()

    compiled = 0

    def slowly(*arguments: Any) -> matcher.Matcher:
        nonlocal compiled
        compiled += 1
        gate.wait(60)
        return make(*arguments)

    monkeypatch.setattr(matcher_factory.MatcherFactory, "_make", slowly)
    try:
        two = [asyncio.ensure_future(output_of(engine, asking(name, choice("yes")))) for name in ("first", "second")]
        await asyncio.sleep(0.1)
        with pytest.raises(QueueFull):
            await output_of(engine, asking("third", choice("yes")))
        two[1].cancel()
        await asyncio.wait({two[1]})
        for index in range(100):  # who comes and goes leaves nothing behind
            left = asyncio.ensure_future(output_of(engine, asking(f"left {index}", choice("yes"))))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait({left})
        again = asyncio.ensure_future(output_of(engine, asking("again", choice("yes"))))
        admitted = replace(asking("admitted", choice("yes")), envelope=Envelope("admitted", admitted=True))
        third = asyncio.ensure_future(output_of(engine, admitted))
        await asyncio.sleep(0.1)
    finally:
        gate.set()
    assert {reason for _, reason in await asyncio.gather(two[0], again, third)} == {FinishReason.END_OF_TURN}
    assert compiled == 3
