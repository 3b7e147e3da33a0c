"""Random JSON Schemas of the kinds that people ask answers in."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

PATTERNS = [r"^[a-z]{2,6}$", r"^\d{3}-\d{2}$", r"^(red|green|blue)!?$", r"^[A-Z][a-z]*( [A-Z][a-z]*)?$"]


def random_schema(seed: int) -> Schema:
    """Return a schema of an object, the same for the same seed."""
    source = random.Random(seed)  # noqa: S311 - the same schemas each time
    schema = _object(source, 2)
    if source.random() < 0.3:
        schema["$defs"] = {"shared": _any(source, 1)}
        schema["properties"]["ref"] = {"$ref": "#/$defs/shared"}
        schema["required"].append("ref")
    return schema


def _any(source: random.Random, depth: int) -> Schema:
    kinds = [_string, _integer, _number, _enum, _plain]
    if depth > 0:
        kinds += [_object, _array, _any_of]
    return source.choice(kinds)(source, depth)


def _object(source: random.Random, depth: int) -> Schema:
    names = [f"{source.choice('abcxyz')}{index}" for index in range(source.randint(1, 3))]
    return {
        "type": "object",
        "properties": {name: _any(source, depth - 1) for name in names},
        "required": [name for name in names if source.random() < 0.7],
        "additionalProperties": False,
    }


def _array(source: random.Random, depth: int) -> Schema:
    least = source.randint(0, 2)
    return {"type": "array", "items": _any(source, depth - 1), "minItems": least, "maxItems": least + 2}


def _any_of(source: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(source, depth - 1), _any(source, depth - 1), {"type": "null"}]}


def _string(source: random.Random, _: int) -> Schema:
    if source.random() < 0.5:
        return {"type": "string", "pattern": source.choice(PATTERNS)}
    least = source.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + source.randint(0, 6)}


def _integer(source: random.Random, _: int) -> Schema:
    least = source.randint(-2000, 2000)
    return {"type": "integer", "minimum": least, "maximum": least + source.randint(0, 3000)}


def _number(source: random.Random, _: int) -> Schema:
    least = round(source.uniform(-50, 50), 2)
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + source.randint(1, 60)}


def _enum(source: random.Random, _: int) -> Schema:
    return {"enum": source.sample(["a", "bb", "é", 'say "x"', 1, 2.5, True, None, [1], {"k": []}], 3)}


def _plain(source: random.Random, _: int) -> Schema:
    return source.choice([{"type": "boolean"}, {"type": "null"}, {"const": "fixed"}, {"type": ["boolean", "null"]}])
