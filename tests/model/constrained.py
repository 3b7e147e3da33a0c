"""Requests with constraints over a tiny model, and what comes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from qwire.engine.chunk import FinishReason
from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.errors import InvalidRequest
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest

OUTPUT_TOKENS = 300
SAMPLED = SamplingParams(temperature=10.0, top_p=0.9, seed=7)


def schema(value: object) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(value))


def regex(text: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, text)


def choice(*choices: str) -> Constraint:
    return Constraint(ConstraintKind.CHOICE, choices=choices)


def grammar(text: str) -> Constraint:
    return Constraint(ConstraintKind.GRAMMAR, text)


def asking(
    name: str, constraint: Constraint | None, sampling: SamplingParams | None = None, output: int = OUTPUT_TOKENS
) -> TokenRequest:
    prompt = tuple(10 + ord(letter) % 90 for letter in name)
    return TokenRequest(prompt, Envelope(name), StopParams(output), sampling or SamplingParams(), constraint=constraint)


def resumed(request: TokenRequest, token_ids: Sequence[int]) -> TokenRequest:
    return replace(request, output_token_ids=tuple(token_ids))


async def output_of(engine: LocalEngine, request: TokenRequest) -> tuple[list[int], FinishReason]:
    token_ids: list[int] = []
    reason = None
    async for chunk in engine.generate(request):
        token_ids += chunk.token_ids
        if chunk.finish is not None:
            reason = chunk.finish.reason
    assert reason is not None
    return token_ids, reason


async def refusal_of(engine: LocalEngine, request: TokenRequest) -> InvalidRequest:
    try:
        await output_of(engine, request)
    except InvalidRequest as error:
        return error
    raise AssertionError(f"{request.constraint} was not refused")


class Text:
    """Reads tokens of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def read(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def write(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
