"""Keeps what people said out of what machines tell."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, MutableMapping, Sized
from functools import lru_cache
from typing import Any, cast

_WITHHELD = re.compile(
    r"(.*_)?(prompts?|text|texts|messages|contents?|completions?|reasoning|deltas?|stop_strings?|token_ids|arguments)"
)
_PLAIN = frozenset({str, int, float, bool, type(None)})


def redacted(event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return an event without text or tokens: `prompt="Hi"` becomes `prompt_length=2`, at any depth.

    Judged by key: `prompt`, `text`, `messages`, `content`, `completion`, `token_ids` and such, also at the end of a
    longer key (`output_text`). Numbers and other values without a length stay, so `prompt_tokens=12` is told.
    """
    if not any(_is_container(value) or _is_withheld(key) for key, value in event.items()):
        return event
    return dict(_redacted_pair(key, value) for key, value in event.items())


def exception_text(error: BaseException, *, withhold: bool) -> str:
    """Return an exception as text, its causes first.

    Args:
        error: The exception.
        withhold: Tell types and places only. What an exception says may quote the request that it broke on.
    """
    if not withhold:
        return "".join(traceback.format_exception(error)).rstrip()
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        kind = type(current)
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{frames}{kind.__module__}.{kind.__qualname__}: [{len(str(current))} characters withheld]")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\n".join(reversed(parts))


def _redacted_pair(key: str, value: object) -> tuple[str, object]:
    if key == "exc_info" or key.startswith("_"):
        return key, value
    if _is_withheld(key) and isinstance(value, Sized):
        return f"{key}_length", len(value)
    return key, _redacted_value(value)


def _redacted_value(value: object) -> object:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return dict(_redacted_pair(str(key), item) for key, item in pairs)
    if isinstance(value, list | tuple):
        return [_redacted_value(item) for item in cast("list[object]", value)]
    return value


@lru_cache(maxsize=1024)  # there are few keys, and they come again and again
def _is_withheld(key: str) -> bool:
    return _WITHHELD.fullmatch(key) is not None


def _is_container(value: object) -> bool:
    return type(value) not in _PLAIN and isinstance(value, Mapping | list | tuple)
