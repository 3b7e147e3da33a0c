"""What a row asks for: a line as `qwire.client.jsonl` reads it, or columns of the same meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from qwire.client import GenerationOptions, InvalidRequest
from qwire.client.jsonl import item_of
from qwire.client.request import generation_spec
from qwire.serve.columns.json_lines import LINE
from qwire.serve.columns.piece import Schema
from qwire.v1 import types_pb2

_PROMPT, _MESSAGES, _OPTIONS = "prompt", "messages", "options"
_OPENAI = ("custom_id", "method", "url", "body")
_TOLD_ELSEWHERE = ("token_info", "top_logprobs", "echo", "prompt_logprobs", "tool_call_fragments")
"""Options that ask for what no column of the output holds."""


@dataclass(frozen=True, slots=True)
class RowReader:
    """Makes generations of rows.

    Attributes:
        columns: Those that it reads.
        prompt: The one that holds the prompt; empty = they are lines of JSON, or OpenAI's columns.
        defaults: Hold for rows without their own.
    """

    columns: tuple[str, ...]
    prompt: str
    defaults: GenerationOptions

    @classmethod
    def of(cls, schema: Schema, prompt_column: str | None, defaults: GenerationOptions) -> RowReader:
        """Return the reader of an input's rows.

        Args:
            schema: The input's columns.
            prompt_column: The one that holds the prompt; None = `prompt`, `messages`, or OpenAI's `custom_id` and
                `body`, whichever is there.
            defaults: Hold for rows without their own.

        Raises:
            InvalidRequest: There is no prompt, or more than one.
        """
        names = set(schema.names)
        if schema.names == [LINE] and prompt_column is None:
            return cls((LINE,), "", defaults)
        prompts = [prompt_column] if prompt_column else [name for name in (_PROMPT, _MESSAGES) if name in names]
        if not prompts and {"custom_id", "body"} <= names:
            return cls(tuple(name for name in _OPENAI if name in names), "", defaults)
        if len(prompts) != 1 or prompts[0] not in names:
            raise InvalidRequest.of(
                "prompt_column", f"must name the column of the prompts; there are {', '.join(schema.names)}"
            )
        return cls((*prompts, *({_OPTIONS} & names)), prompts[0], defaults)

    def spec(self, row: Mapping[str, Any], number: int) -> types_pb2.GenerationSpec:
        """Return what a row asks for.

        Args:
            row: Its values by column.
            number: Its number among all rows.

        Raises:
            InvalidRequest: It asks for nothing that can be done here; the text names the column.
        """
        where = f"row {number}"
        item = item_of(self._value(row, where), number, where)
        for name in _TOLD_ELSEWHERE:
            value = item.options.get(name)
            if value is not None and value is not False:  # zero log-probabilities are some
                raise InvalidRequest.of(f"{where}.{name}", "no column of the output holds it; a batch job tells it")
        return generation_spec(item.prompt, {**self.defaults, **item.options}, where)

    def _value(self, row: Mapping[str, Any], where: str) -> object:
        if self.columns == (LINE,):
            return _parsed(row[LINE], f"{where}.{LINE}")
        if not self.prompt:
            value = {name: row[name] for name in self.columns if row[name] is not None}
            if "custom_id" not in value:
                raise InvalidRequest.of(f"{where}.custom_id", "is missing")
            return value | {"body": _parsed(row["body"], f"{where}.body")}
        prompt = row[self.prompt]
        if prompt is None:
            raise InvalidRequest.of(f"{where}.{self.prompt}", "is missing")
        if self.prompt == _MESSAGES or not isinstance(prompt, str):
            prompt = _parsed(prompt, f"{where}.{self.prompt}")
        options = _parsed(row.get(_OPTIONS) or {}, f"{where}.{_OPTIONS}")
        if not isinstance(options, Mapping):
            raise InvalidRequest.of(f"{where}.{_OPTIONS}", "names and values are needed")
        if named := options.keys() & {"prompt", "id"}:
            raise InvalidRequest.of(f"{where}.{_OPTIONS}", f"unknown option {min(named)!r}")
        return {"prompt": prompt, **options}


def _parsed(value: object, where: str) -> object:
    """Return a value that is written as JSON, or in columns: those have a null for each field that is not there."""
    if not isinstance(value, str):
        return _present(value)
    try:
        return json.loads(value)
    except ValueError as error:
        raise InvalidRequest.of(where, f"not JSON: {error}") from None


def _present(value: object) -> object:
    match value:
        case dict():
            fields = cast("dict[str, object]", value)
            return {name: _present(one) for name, one in fields.items() if one is not None}
        case list():
            return [_present(one) for one in cast("list[object]", value)]
        case _:
            return value
