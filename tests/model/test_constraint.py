"""Outputs match their constraints whatever the weights, and constraints change nothing for others."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from qwire.engine.chunk import FinishReason
from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from tests.model.constrained import (
    OUTPUT_TOKENS,
    SAMPLED,
    Text,
    asking,
    choice,
    grammar,
    output_of,
    regex,
    resumed,
    schema,
)
from tests.support.log_lines import collected_log_lines
from tests.support.random_schema import random_schema
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
SCHEMAS = 1000
GREEDY = SamplingParams()
SAMPLINGS = [
    GREEDY,
    SAMPLED,
    SamplingParams(temperature=10.0, top_k=20, seed=1),
    SamplingParams(temperature=10.0, seed=2),
    SamplingParams(temperature=10.0, min_p=0.01, repetition_penalty=2.0, seed=3),
]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CONSTRAINTS = [
    schema(PERSON),
    regex(r"(\d{2}-){3}[a-f]+(x|yz)"),
    choice("yes", "no", 'yes, but "not" / now', "né 😀\n"),
    grammar('start: sum\nsum: NUMBER | sum "+" NUMBER\nNUMBER: /[1-9][0-9]{0,2}/'),
]


FORMATS = FormatChecker(Draft202012Validator.FORMAT_CHECKER.checkers)


@FORMATS.checks("date", raises=ValueError)
def is_date(text: object) -> bool:
    """RFC 3339 has a year 0, a leap year; Python's dates begin with the year 1."""
    return not isinstance(text, str) or bool(date.fromisoformat(re.sub("^0000", "2000", text)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of JSON are tokens, and some rows of the vocabulary stand for nothing."""
    corpus = json.dumps([random_schema(seed) for seed in range(20)]) + '{"a": 1, "b": [true, null]}' * 50
    return write_tiny_checkpoint(tmp_path_factory.mktemp("constrained"), corpus=corpus, spare_tokens=21)


@pytest.fixture(scope="module")
def text(folder: Path) -> Text:
    return Text(folder)


@pytest.mark.timeout(0)  # it is long, and a busy machine is not a failure
async def test_answers_to_random_schemas_are_valid(folder: Path, text: Text, start_engine: StartEngine):
    engine = await start_engine(folder, max_running=32, max_waiting=SCHEMAS)
    # Many schemas have parts without bound, and random weights see no reason to end: what is cut is then ended, first
    # by what ends a string, or what an address still lacks, as the rest may well stand in one.
    ends = tuple((text.write(end)[0], 100.0 - 10 * rank) for rank, end in enumerate('"@:.}]'))
    ending = SamplingParams(logit_bias=ends)

    async def answer(index: int) -> tuple[list[int], bool]:
        request = asking(f"{index}-schema", schema(random_schema(index)), SAMPLINGS[index % len(SAMPLINGS)])
        token_ids, reason = await output_of(engine, request)
        was_cut = reason is FinishReason.LENGTH
        if was_cut:
            assert len(token_ids) == OUTPUT_TOKENS
            longer = replace(resumed(request, token_ids), sampling=ending, stop=StopParams(4 * OUTPUT_TOKENS))
            rest, reason = await output_of(engine, longer)
            token_ids += rest
        assert reason is FinishReason.END_OF_TURN, (random_schema(index), text.read(token_ids)[-1500:])
        return token_ids, was_cut

    answers = await asyncio.gather(*map(answer, range(SCHEMAS)))
    for index, (token_ids, _) in enumerate(answers):
        Draft202012Validator(random_schema(index), format_checker=FORMATS).validate(json.loads(text.read(token_ids)))
    print(f"{SCHEMAS} valid, {sum(was_cut for _, was_cut in answers)} of them ended")  # noqa: T201


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_every_kind_is_matched_whatever_the_sampling(
    folder: Path, text: Text, start_engine: StartEngine, sampling: SamplingParams
):
    engine = await start_engine(folder, max_running=8)
    requests = [asking(f"kind-{index}", one, sampling) for index, one in enumerate(CONSTRAINTS)]
    requests.append(asking("any-object", Constraint(ConstraintKind.JSON_OBJECT), sampling))
    outputs = await asyncio.gather(*(output_of(engine, request) for request in requests))
    texts = [text.read(token_ids) for token_ids, _ in outputs]
    reasons = [reason for _, reason in outputs]
    person, pattern, chosen, total, anything = texts
    if reasons[0] is FinishReason.END_OF_TURN:
        Draft202012Validator(PERSON).validate(json.loads(person))
    if reasons[1] is FinishReason.END_OF_TURN:
        assert re.fullmatch(CONSTRAINTS[1].text, pattern)
    assert reasons[2] is FinishReason.END_OF_TURN
    assert chosen in CONSTRAINTS[2].choices
    assert re.fullmatch(r"[1-9]\d{0,2}(\+[1-9]\d{0,2})*\+?", total)
    assert anything.startswith("{")
    if reasons[4] is FinishReason.END_OF_TURN:
        assert isinstance(json.loads(anything), dict)


def mixed(sampling: SamplingParams) -> list[TokenRequest]:
    return [asking(f"mixed-{index}", one, sampling, 60) for index, one in enumerate(CONSTRAINTS)]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_output_is_the_same_alone_batched_preempted_and_resumed_at_every_cut(
    folder: Path, start_engine: StartEngine, sampling: SamplingParams
):
    wide = await start_engine(folder, max_running=8)
    alone = [await output_of(wide, request) for request in mixed(sampling)]
    assert await asyncio.gather(*(output_of(wide, request) for request in mixed(sampling))) == alone
    narrow = await start_engine(folder, max_running=8, kv_capacity_tokens=80, page_tokens=4)
    crowd = [
        replace(one, envelope=Envelope(f"{n}-{one.envelope.request_id}")) for n in (1, 2) for one in mixed(sampling)
    ]
    with collected_log_lines() as lines:
        assert await asyncio.gather(*(output_of(narrow, request) for request in crowd)) == alone * 2
    assert lines.of("generation_preempted")
    for request, (token_ids, reason) in zip(mixed(sampling), alone, strict=True):
        cuts = range(1, len(token_ids))
        rest = await asyncio.gather(
            *(
                output_of(wide, replace(resumed(request, token_ids[:cut]), envelope=asking(f"{cut}", None).envelope))
                for cut in cuts
            )
        )
        assert rest == [(token_ids[cut:], reason) for cut in cuts]


async def test_free_batch_mates_are_not_touched(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder, max_running=16)
    free = [asking(f"free-{index}", None, one, 40) for index, one in enumerate(SAMPLINGS)]
    alone = await asyncio.gather(*(output_of(engine, request) for request in free))
    together = await asyncio.gather(*(output_of(engine, request) for request in [*free, *mixed(SAMPLED)]))
    assert together[: len(free)] == alone


async def test_probabilities_are_those_of_the_model_without_its_constraint(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder)
    request = replace(asking("logprobs", choice("yes", "no")), top_logprobs=3)
    chunks = [chunk async for chunk in engine.generate(request)]
    first = chunks[0].logprobs[0]
    free = replace(asking("logprobs", None, output=1), top_logprobs=3)
    (expected,) = [chunk async for chunk in engine.generate(free)]
    assert first.top == expected.logprobs[0].top
    assert first.logprob < first.top[0][1]


async def test_a_limit_within_the_constraint_cuts_the_output(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder)
    whole, _ = await output_of(engine, asking("limit", schema(PERSON), SAMPLED))
    cut, reason = await output_of(engine, asking("limit", schema(PERSON), SAMPLED, 5))
    assert (cut, reason) == (whole[:5], FinishReason.LENGTH)


async def test_a_constraint_begins_after_its_token(folder: Path, text: Text, start_engine: StartEngine):
    engine = await start_engine(folder, max_running=4)
    free, _ = await output_of(engine, asking("thinking", None, SAMPLED, 40))
    (eos,) = (await engine.card()).eos_token_ids
    begin = next(token_id for token_id in free if token_id != eos)
    constraint = replace(choice("yes", "no"), after_token_id=begin)
    request = asking("thinking", constraint, SAMPLED)
    token_ids, reason = await output_of(engine, request)
    start = token_ids.index(begin) + 1
    assert token_ids[: start - 1] == free[: start - 1]
    assert reason is FinishReason.END_OF_TURN
    assert text.read(token_ids[start:]) in ("yes", "no")
    for cut in range(1, len(token_ids)):
        assert (await output_of(engine, resumed(request, token_ids[:cut])))[0] == token_ids[cut:]


@pytest.mark.parametrize("opens", [True, False])
async def test_what_comes_first_says_whether_the_constraint_waits(
    folder: Path, text: Text, start_engine: StartEngine, *, opens: bool
):
    engine = await start_engine(folder, max_running=4)
    rows = (await engine.card()).vocabulary_tokens
    opening, closing = rows - 1, rows - 2  # nothing else is written with them
    bias = {opening: 50.0 if opens else -100.0, closing: 60.0}
    sampling = replace(SAMPLED, logit_bias=tuple(bias.items()))
    constraint = replace(choice("yes", "no"), after_token_id=closing, opening_token_id=opening)
    request = asking("opening", constraint, sampling)
    token_ids, reason = await output_of(engine, request)
    assert reason is FinishReason.END_OF_TURN
    assert (token_ids[0] == opening) is opens
    start = token_ids.index(closing) + 1 if opens else 0
    assert text.read(token_ids[start:]) in ("yes", "no")
    for cut in range(1, len(token_ids)):
        assert (await output_of(engine, resumed(request, token_ids[:cut])))[0] == token_ids[cut:]


async def test_a_turn_does_not_end_before_the_constraint_begins(folder: Path, start_engine: StartEngine):
    engine = await start_engine(folder)
    card = await engine.card()
    (eos,) = card.eos_token_ids
    eager = SamplingParams(logit_bias=((eos, 100.0),))
    never = replace(choice("yes"), after_token_id=card.vocabulary_tokens - 1)
    token_ids, reason = await output_of(engine, asking("never", never, eager, 20))
    assert (len(token_ids), reason) == (20, FinishReason.LENGTH)
    assert eos not in token_ids
    bare, _ = await output_of(engine, asking("never", None, eager, 20))
    assert bare[-1] == eos
