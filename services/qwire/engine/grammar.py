"""Writes constraints in the notation that llguidance compiles."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from llguidance import LLMatcher

from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.errors import InvalidRequest

_LIBRARY = "x-guidance"
"""Where a schema would give options to the library."""
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
"""Between the parts of JSON. Bounded, as a small model may go on with it for ever."""


def grammar_of(constraint: Constraint) -> str:
    """Return llguidance's grammar of a constraint.

    Raises:
        InvalidRequest: It is empty or too large, or its schema is not a JSON object.
    """
    constraint.check()
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return _json(_schema(constraint))
        case ConstraintKind.JSON_OBJECT:
            return _json({"type": "object"})
        case ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(constraint.text)
        case ConstraintKind.CHOICE:
            return _lark("start: " + " | ".join(map(_literal, constraint.choices)))
        case ConstraintKind.GRAMMAR:
            return _lark(constraint.text)


def _schema(constraint: Constraint) -> dict[str, Any]:
    def refuse(_: str) -> NoReturn:
        raise ValueError("NaN and Infinity are not JSON")

    try:
        schema = json.loads(constraint.text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(constraint.field, f"It is not JSON: {error}.") from None
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InvalidRequest(constraint.field, "It must be a JSON object, or true.")
    if _LIBRARY in schema:
        # It would have keywords ignored that are not supported.
        raise InvalidRequest(constraint.field, f"The keyword {_LIBRARY} is not supported.")
    return schema


def _json(schema: dict[str, Any]) -> str:
    return _grammar(json_schema={**schema, _LIBRARY: {"whitespace_pattern": _WHITESPACE}})


def _lark(text: str) -> str:
    return _grammar(lark_grammar=text)


def _grammar(**grammar: object) -> str:
    # Built as JSON, never by pasting: what a caller sent stays in its place.
    return json.dumps({"grammars": [grammar]})


def _literal(text: str) -> str:
    """Return a regular expression of one text, every character by its number: none has a meaning of its own."""
    return "/" + "".join(f"\\x{{{ord(character):x}}}" for character in text) + "/"
