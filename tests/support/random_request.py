"""Random requests of every kind that an engine takes, and some that it must refuse."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from typing import Any

from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from tests.support.random_schema import random_schema

MOST_TOKENS = 220
"""Prompt and output of the largest one."""

ADAPTERS = ("red", "green", "blue")
"""Names that requests give."""

OVERFLOWING = "overflowing"
"""Name of one with which nothing that is computed is finite; few requests give it."""

_LENGTHS = (1, 2, 3, 20, 60, 120)
_SCHEMAS = 40
_BEGINNINGS = 3


def random_request(index: int, source: random.Random, vocabulary_tokens: int) -> TokenRequest:
    """Return a request that an engine with room for `MOST_TOKENS` can finish.

    Args:
        index: Its id.
        source: Where its parts come from. A deadline is some time within the next two seconds.
        vocabulary_tokens: Of the model.
    """

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(source.randrange(vocabulary_tokens) for _ in range(source.randint(least, most)))

    text = tokens(length := source.choice(_LENGTHS), length)
    if source.random() < 0.5:  # begins as others do
        beginning = random.Random(index % _BEGINNINGS)  # noqa: S311 - the same one each time
        text = (*(beginning.randrange(vocabulary_tokens) for _ in range(40)), *text)
    constraint = _constraint(source) if source.random() < 0.3 else None
    given = tokens(1, 3) if constraint is None and source.random() < 0.2 else ()
    most = source.randrange(len(given) + 1, 40)
    free = constraint is None  # of the constraint's say in when a turn ends
    return TokenRequest(
        text,
        Envelope(
            str(index),
            source.choice((-1, 0, 0, 1)),
            time.time_ns() + source.randrange(2_000_000_000) if source.random() < 0.1 else None,
        ),
        StopParams(
            most,
            source.randint(0, most) if free and source.random() < 0.2 else 0,
            frozenset(tokens(1, 5)) if source.random() < 0.2 else frozenset(),
            ignore_eos=free and source.random() < 0.5,
        ),
        _sampling(source, vocabulary_tokens),
        given,
        top_logprobs=source.choice((None, None, None, 0, 1, 20)),
        prompt_logprobs=source.choice((None, None, None, 0, 3)),
        constraint=constraint,
        adapter=OVERFLOWING if source.random() < 0.03 else source.choice(("", "", "", *ADAPTERS)),
    )


def bad_request(index: int, source: random.Random, vocabulary_tokens: int) -> TokenRequest:
    """Return a request with one field that must be refused."""
    good = TokenRequest((1, 2), Envelope(str(index)), StopParams(9))
    broken: list[dict[str, Any]] = [
        {"prompt_token_ids": ()},
        {"prompt_token_ids": (vocabulary_tokens,)},
        {"stop": StopParams(0)},
        {"stop": StopParams(3, 4)},
        {"sampling": SamplingParams(temperature=float("nan"))},
        {"sampling": SamplingParams(top_p=0.0)},
        {"output_token_ids": (1,) * 9},
        {"top_logprobs": 21},
        {"prompt_logprobs": -1},
        {"constraint": Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "shoe"}')},
        {"constraint": Constraint(ConstraintKind.REGEX, "(")},
        {"constraint": Constraint(ConstraintKind.GRAMMAR, "start: nothing")},
        {"adapter": "nobody's"},
    ]
    return replace(good, **source.choice(broken))


def _sampling(source: random.Random, vocabulary_tokens: int) -> SamplingParams:
    if source.random() < 0.3:
        return SamplingParams()
    biased = source.sample(range(vocabulary_tokens), source.choice((0, 0, 3)))
    return SamplingParams(
        repetition_penalty=source.choice((1.0, 1.0, 1.5)),
        presence_penalty=source.choice((0.0, 0.0, 1.0)),
        frequency_penalty=source.choice((0.0, 0.0, -0.5)),
        logit_bias=tuple((token_id, source.uniform(-100, 100)) for token_id in biased),
        temperature=source.choice((0.0, 1.0, 10.0)),
        top_k=source.choice((0, 0, 20)),
        top_p=source.choice((1.0, 1.0, 0.9)),
        min_p=source.choice((0.0, 0.0, 0.05)),
        seed=source.randrange(2**64),
    )


def _constraint(source: random.Random) -> Constraint:
    kind = source.choice(list(ConstraintKind))
    texts = {
        ConstraintKind.JSON_SCHEMA: json.dumps(random_schema(source.randrange(_SCHEMAS))),
        ConstraintKind.REGEX: source.choice((r"([0-9]{2}-){3}[a-f]+(x|yz)", r".{3,30}", r"[^a]*a")),
        ConstraintKind.GRAMMAR: 'start: sum\nsum: NUMBER | sum "+" NUMBER\nNUMBER: /[1-9][0-9]{0,2}/',
    }
    choices = ("yes", "no", 'yes, but "not" / now', "né 😀\n") if kind is ConstraintKind.CHOICE else ()
    return Constraint(kind, texts.get(kind, ""), choices)
