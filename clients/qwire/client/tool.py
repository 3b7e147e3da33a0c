"""Tools that a model may ask to have called, and the calls that it asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwire.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to have called.

    Example:
        tool = Tool("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
        messages = [ChatMessage(Role.USER, "How is the weather in Köln?")]
        asked = client.generate(messages, tools=[tool])
        results = [ChatMessage.result_of(call, weather(**call.arguments)) for call in asked.tool_calls]
        messages += [asked.message, *results]
        print(client.generate(messages, tools=[tool]).text)

    Attributes:
        name: Its name: 1 to 64 letters, digits, underscores and dashes.
        description: What it does, for the model to read.
        parameters: JSON Schema of its arguments object. None = no arguments.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolCallFragment:
    """More of a call that is not complete: to show, not to act on. Only its `ToolCall` tells that it is one.

    Attributes:
        index: Which call of the output it may become, from 0. The call that takes a retracted one's place has the same.
        id: The call's id, with its first fragment; empty = told before.
        name: The tool's name, likewise.
        arguments_json: Some of the arguments, from where the last fragment ended; all of them are the beginning of
            `ToolCall.arguments_json`.
        retracted: It is no call: what was told of it is void, and comes as text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments_json: str = ""
    retracted: bool = False

    @classmethod
    def from_proto(cls, proto: types_pb2.ToolCallFragment) -> ToolCallFragment:
        """Convert the message."""
        return cls(proto.index, proto.id, proto.name, proto.arguments_json, proto.retracted)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: Names the call within the conversation; its result refers to it.
        name: The tool's name; not necessarily one of those on offer.
        arguments_json: The arguments, a JSON object as the model wrote it; it need not match the tool's schema.
    """

    id: str
    name: str
    arguments_json: str

    @classmethod
    def from_proto(cls, proto: types_pb2.ToolCall) -> ToolCall:
        """Convert the message."""
        return cls(proto.id, proto.name, proto.arguments_json)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, parsed.

        Raises:
            ValueError: `arguments_json` is not JSON; never so for calls from the server.
        """
        return json.loads(self.arguments_json)
