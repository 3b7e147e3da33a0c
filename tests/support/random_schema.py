"""Random JSON Schemas of the kinds that people ask answers in."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

PATTERNS = [
    *(r"^[a-z]{2,6}$", r"^[0-9]{3}-[0-9]{2}$", r"^(red|green|blue)!?$", r"^[A-Z][a-z]*( [A-Z][a-z]*)?$"),
    *(r"^(\+49|0)[1-9][0-9]{1,4}$", r"^[^\s]{1,5}$", r'^"[a-zé]{1,3}"\\$', r"^(a|b(c|d){2})+$"),
]
FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid")
VALUES = ["a", "bb", "é", 'say "x"', "back\\slash\n", "", 0, -1, 1.5, 2e10, True, False, None, [1], [], {"k": []}, {}]


def random_schema(seed: int) -> Schema:
    """Return a schema that something matches, the same for the same seed."""
    source = random.Random(seed)  # noqa: S311 - the same schemas each time
    if source.random() < 0.15:
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_any(source, 2)}
    schema = _object(source, 3 if source.random() < 0.2 else 2)
    if source.random() < 0.3:
        schema["$defs"] = {"shared": _any(source, 1), "node": _node(source)}
        for name in source.choice((("shared",), ("node",), ("shared", "node"))):
            schema["properties"][name] = {"$ref": f"#/$defs/{name}"}
            schema["required"].append(name)
    return schema


def _any(source: random.Random, depth: int) -> Schema:
    kinds = [_string, _string, _format, _integer, _number, _enum, _const, _plain, _one_of, _all_of]
    if depth > 0:
        kinds += [_object, _object, _array, _array, _tuple, _any_of, _map]
    schema = source.choice(kinds)(source, depth)
    if source.random() < 0.2:
        schema |= source.choice(
            ({"title": "A title"}, {"description": "Says\nmuch"}, {"default": 1}, {"$comment": "x"})
        )
    return schema


def _object(source: random.Random, depth: int) -> Schema:
    letters = ("a", "bc", "x y", "é", 'q"', "$z", "名")
    names = [f"{source.choice(letters)}{index}" for index in range(source.randint(0, 4))]
    schema: Schema = {
        "type": "object",
        "properties": {name: _any(source, depth - 1) for name in names},
        "required": [name for name in names if source.random() < 0.7],
        "additionalProperties": False,
    }
    if source.random() < 0.1:
        schema["additionalProperties"] = source.choice((True, {"type": "boolean"}))
    return schema


def _map(source: random.Random, depth: int) -> Schema:
    pattern = source.choice(("^[a-z]{1,3}$", "^x-[0-9]$"))
    values = {pattern: _any(source, depth - 1)}
    return {"type": "object", "patternProperties": values, "additionalProperties": False, "maxProperties": 2}


def _node(source: random.Random) -> Schema:
    """Return a schema that refers to itself."""
    more = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
    properties = {"value": _integer(source, 0), "next": more}
    return {"type": "object", "properties": properties, "required": ["value"], "additionalProperties": False}


def _array(source: random.Random, depth: int) -> Schema:
    least = source.randint(0, 2)
    return {"type": "array", "items": _any(source, depth - 1), "minItems": least, "maxItems": least + 2}


def _tuple(source: random.Random, depth: int) -> Schema:
    items = [_any(source, depth - 1) for _ in range(source.randint(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": source.randint(0, len(items))}


def _any_of(source: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(source, depth - 1), _any(source, depth - 1), {"type": "null"}]}


def _one_of(source: random.Random, _: int) -> Schema:
    return {"oneOf": [_integer(source, 0), {"type": "boolean"}, _string(source, 0)]}


def _all_of(source: random.Random, _: int) -> Schema:
    bounds = _integer(source, 0)
    return {"allOf": [{"type": "integer", "minimum": bounds["minimum"]}, {"maximum": bounds["maximum"]}]}


def _string(source: random.Random, _: int) -> Schema:
    if source.random() < 0.5:
        return {"type": "string", "pattern": source.choice(PATTERNS)}
    least = source.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + source.randint(0, 6)}


def _format(source: random.Random, _: int) -> Schema:
    return {"type": "string", "format": source.choice(FORMATS)}


def _integer(source: random.Random, _: int) -> Schema:
    least = source.randint(-2000, 2000)
    schema: Schema = {"type": "integer", "minimum": least, "maximum": least + source.randint(0, 3000)}
    if source.random() < 0.2:
        schema |= {"maximum": least + 30, "multipleOf": source.choice((2, 5, 7))}
    return schema


def _number(source: random.Random, _: int) -> Schema:
    least = round(source.uniform(-50, 50), 2)
    below = source.choice(("minimum", "exclusiveMinimum"))
    above = source.choice(("maximum", "exclusiveMaximum"))
    return {"type": "number", below: least, above: least + source.randint(1, 60)}


def _enum(source: random.Random, _: int) -> Schema:
    return {"enum": source.sample(VALUES, source.randint(1, 4))}


def _const(source: random.Random, _: int) -> Schema:
    return {"const": source.choice(VALUES)}


def _plain(source: random.Random, _: int) -> Schema:
    return source.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}, {"type": "integer"}])
