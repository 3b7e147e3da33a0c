"""A tool call as Qwen models write it: `{"name": ..., "arguments": {...}}` between two tags."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a tool may be called; a call of anything else is no call."""

_KEYS = {"name", "arguments"}
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call that the model has written: the tool's name, and the arguments object as it stands in the output."""

    name: str
    arguments_json: str


def parse_call(text: str) -> WrittenCall | None:
    """Return the call that a text is; None where it is anything else than one, exactly.

    Args:
        text: What stands between the tags.
    """
    try:
        fields = _fields(text.strip(" \t\n\r"))
    except (ValueError, RecursionError):
        return None
    if fields is None or fields.keys() != _KEYS:
        return None
    name, arguments = fields["name"], fields["arguments"]
    if not isinstance(name[0], str) or not TOOL_NAME.fullmatch(name[0]) or not isinstance(arguments[0], dict):
        return None
    return WrittenCall(name[0], arguments[1])


def _fields(text: str) -> dict[str, tuple[Any, str]] | None:
    """Return an object's values, each with the text that it stands for.

    Returns:
        None where a key occurs twice, since only one of its values could be passed on.

    Raises:
        ValueError: The text is not one JSON object.
    """
    fields: dict[str, tuple[Any, str]] = {}
    at = _skip(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at, ":")
        value, end = _DECODER.raw_decode(text, at)
        if not isinstance(key, str) or key in fields:
            return None
        fields[key] = (value, text[at:end])
        at = _space(text, end)
        if text[at:] == "}":
            return fields
        at = _skip(text, at, ",")


def _skip(text: str, at: int, character: str) -> int:
    """Return where the text goes on after a character and the space around it."""
    at = _space(text, at)
    if text[at : at + 1] != character:
        raise ValueError(f"{character} is missing at character {at}")
    return _space(text, at + 1)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
