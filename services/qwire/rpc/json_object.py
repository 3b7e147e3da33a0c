"""Reads JSON objects that stand in string fields."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, cast

from qwire.rpc.fields import FieldChecker

MAX_DEPTH = 64
"""Levels of nesting; far beyond any schema, and far below where recursion ends."""


def json_object(check: FieldChecker, path: str, text: str) -> dict[str, Any]:
    """Return the object that a field holds; empty where a violation was noted.

    Args:
        check: Where a violation is noted.
        path: The field.
        text: Its value.
    """
    try:
        value: object = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if not isinstance(value, dict):
            check.refuse(path, "must be a JSON object")
        elif not _fits(cast("dict[str, Any]", value), MAX_DEPTH):
            check.refuse(path, f"must be at most {MAX_DEPTH} levels deep")
        else:
            # An escaped surrogate is JSON, but no text.
            json.dumps(value, ensure_ascii=False).encode()
            return cast("dict[str, Any]", value)
    except (ValueError, RecursionError):
        check.refuse(path, "must be a JSON object")
    return {}


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is beyond what a double holds")
    return value


def _fits(value: Any, levels: int) -> bool:
    match value:
        case dict():
            inner = list(cast("dict[str, Any]", value).values())
        case list():
            inner = cast("list[Any]", value)
        case _:
            return True
    return levels > 0 and all(_fits(entry, levels - 1) for entry in inner)
