"""Batch items and their results as lines of JSON: qwire's own form, and that of OpenAI's Batch API.

A line of qwire's own form is a string, which is a prompt, or an object with `prompt` (text, or messages), `id`, and any
of `GenerationOptions` by name. A line of OpenAI's has `custom_id`, `method`, `url` and `body`; what the body asks for
and qwire does not do is refused, not left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, cast

from qwire.client.batch_job import BatchJobItem
from qwire.client.errors import InvalidRequest
from qwire.client.generation_options import BatchItem, GenerationOptions
from qwire.client.openai import openai_item, openai_result, token_biases
from qwire.client.prompt import Prompt


class LineFormat(Enum):
    """How results are written."""

    QWIRE = "qwire"
    OPENAI = "openai"


def read_items(path: Path) -> Iterator[BatchItem]:
    """Yield the items of a file, each line in either form; one without an id gets its line's number, from 1.

    Raises:
        InvalidRequest: A line is neither; the text names it.
        OSError: The file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InvalidRequest.of(where, f"not JSON: {error}") from error
            yield item_of(value, number, where)


def item_of(value: object, number: int, where: str) -> BatchItem:
    """Return the item that a line asks for.

    Args:
        value: The line, parsed.
        number: Names the item where it does not name itself.
        where: Where the line is, for errors.

    Raises:
        InvalidRequest: It has neither form.
    """
    match value:
        case str():
            return BatchItem(value, id=str(number))
        case {"custom_id": _}:
            return openai_item(cast("Mapping[str, Any]", value), where)
        case {"prompt": prompt, **options}:
            item_id = options.pop("id", str(number))
            _check_options(options, where)
            return BatchItem(cast("Prompt", prompt), id=str(item_id), options=cast("GenerationOptions", options))
        case _:
            raise InvalidRequest.of(where, "a string, an object with a prompt, or one with a custom_id is needed")


def result_line(item: BatchJobItem, line_format: LineFormat) -> str:
    """Return an item's outcome as a line, without its end."""
    value = openai_result(item) if line_format is LineFormat.OPENAI else _result(item)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def cursor_of(line: str) -> int:
    """Return the cursor of the outcome that a line tells of.

    Raises:
        ValueError: The line is not one of `result_line`.
    """
    match json.loads(line):
        case {"cursor": int(cursor)}:
            return cursor
        case {"id": str(name)} if name.startswith("batch_req_"):
            return int(name.removeprefix("batch_req_"))
        case _:
            raise ValueError("not a line of results")


def _check_options(options: dict[str, Any], where: str) -> None:
    unknown = options.keys() - GenerationOptions.__annotations__.keys()
    if unknown:
        raise InvalidRequest.of(where, f"unknown option {min(unknown)!r}")
    if "priority" in options:
        raise InvalidRequest.of(f"{where}.priority", "the job has one for all its items")
    if options.get("logit_bias") is not None:
        options["logit_bias"] = token_biases(options["logit_bias"], f"{where}.logit_bias")


def _result(item: BatchJobItem) -> dict[str, Any]:
    line: dict[str, Any] = {"id": item.id, "cursor": item.cursor, "state": item.state.value}
    if item.generation is not None:
        generation = item.generation
        usage = generation.usage
        line |= {
            "text": generation.text,
            "finish_reason": generation.finished.reason.value,
            "usage": {"prompt_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens},
        }
        if generation.reasoning:
            line["reasoning"] = generation.reasoning
        if generation.tool_calls:
            calls = generation.tool_calls
            line["tool_calls"] = [{"id": one.id, "name": one.name, "arguments": one.arguments} for one in calls]
    if item.error is not None:
        line["error"] = {"code": item.error.code and item.error.code.name, "message": item.error.message}
        if item.error.reason:
            line["error"]["reason"] = item.error.reason
    return line
