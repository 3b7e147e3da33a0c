"""Tools: what the model may ask to have called, and the calls that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

TextMap = Callable[[str], str]
"""Makes one text of another."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to have called.

    Attributes:
        name: Its name.
        description: What it does, for the model to read; empty = nothing is said.
        parameters: JSON Schema of its arguments object, as parsed; empty = no arguments.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]

    def mapped(self, change: TextMap) -> Tool:
        """Return the tool with every text in it changed, keys and values of the schema included."""
        return Tool(change(self.name), change(self.description), mapped_json(self.parameters, change))


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that the model asked for in an earlier turn.

    Attributes:
        id: Names the call within the conversation.
        name: The tool's name.
        arguments: The arguments object, as parsed.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]

    def mapped(self, change: TextMap) -> PastCall:
        """Return the call with every text in it changed, keys and values of the arguments included."""
        return replace(self, id=change(self.id), name=change(self.name), arguments=mapped_json(self.arguments, change))


def mapped_json(value: Any, change: TextMap) -> Any:
    """Return a JSON value with every string in it changed, keys included."""
    match value:
        case str():
            return change(value)
        case Mapping():
            entries = cast("Mapping[str, Any]", value)
            return {change(key): mapped_json(entry, change) for key, entry in entries.items()}
        case list():
            return [mapped_json(entry, change) for entry in cast("list[Any]", value)]
        case _:
            return value
