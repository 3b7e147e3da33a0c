"""Turns tools, calls and their results into what the text room takes, or says which fields are at fault."""

from __future__ import annotations

from qwire.rpc.fields import FieldChecker
from qwire.rpc.json_object import json_object
from qwire.text.call_text import TOOL_NAME
from qwire.text.tool import PastCall, Tool
from qwire.v1 import types_pb2 as pb

MAX_TOOLS = 128
MAX_CALL_ID_CHARACTERS = 128

_NAME_RULE = "must be 1 to 64 letters, digits, underscores and dashes"


def tools_of(check: FieldChecker, options: pb.ToolOptions, path: str) -> tuple[Tool, ...]:
    """Return the tools on offer, unless a violation was noted.

    Args:
        check: Where violations are noted.
        options: The message.
        path: Where it is in its request.
    """
    check.only_known(options, path)
    if len(options.tools) > MAX_TOOLS:
        check.refuse(f"{path}.tools", f"at most {MAX_TOOLS} tools are allowed")
        return ()
    tools: list[Tool] = []
    for index, definition in enumerate(options.tools):
        at = f"{path}.tools[{index}]"
        check.only_known(definition, at)
        if not TOOL_NAME.fullmatch(definition.name):
            check.refuse(f"{at}.name", _NAME_RULE)
        elif any(definition.name == tool.name for tool in tools):
            check.refuse(f"{at}.name", "must be used once")
        schema = definition.parameters_json_schema
        parameters = json_object(check, f"{at}.parameters_json_schema", schema) if schema else {}
        if parameters.get("type", "object") != "object":
            check.refuse(f"{at}.parameters_json_schema", 'must be a schema of an object: its "type" must be "object"')
        tools.append(Tool(definition.name, definition.description, parameters))
    return tuple(tools)


class CallHistory:
    """The calls of a conversation's messages, taken in order, and which of them a result answers.

    Args:
        check: Where violations are noted.
    """

    def __init__(self, check: FieldChecker) -> None:
        self._check = check
        self._names: dict[str, str] = {}

    def calls(self, message: pb.ChatMessage, path: str) -> tuple[PastCall, ...]:
        """Return a message's calls, unless a violation was noted."""
        check = self._check
        if message.tool_calls and message.role != pb.ROLE_ASSISTANT:
            check.refuse(f"{path}.tool_calls", "are only allowed with ROLE_ASSISTANT")
            return ()
        return tuple(self._call(call, f"{path}.tool_calls[{n}]") for n, call in enumerate(message.tool_calls))

    def answered(self, message: pb.ChatMessage, path: str) -> str:
        """Return the name of the tool whose result a message is, unless a violation was noted; empty = it is none."""
        if message.role != pb.ROLE_TOOL:
            if message.tool_call_id:
                self._check.refuse(f"{path}.tool_call_id", "is only allowed with ROLE_TOOL")
            return ""
        name = self._names.get(message.tool_call_id)
        if not message.tool_call_id:
            self._check.refuse(f"{path}.tool_call_id", "is required with ROLE_TOOL")
        elif name is None:
            self._check.refuse(f"{path}.tool_call_id", "must be the id of a call of an earlier message")
        return name or ""

    def _call(self, call: pb.ToolCall, path: str) -> PastCall:
        check = self._check
        check.only_known(call, path)
        if not 1 <= len(call.id) <= MAX_CALL_ID_CHARACTERS:
            check.refuse(f"{path}.id", f"must have 1 to {MAX_CALL_ID_CHARACTERS} characters")
        elif call.id in self._names:
            check.refuse(f"{path}.id", "must be used once")
        if not TOOL_NAME.fullmatch(call.name):
            check.refuse(f"{path}.name", _NAME_RULE)
        self._names[call.id] = call.name
        return PastCall(call.id, call.name, json_object(check, f"{path}.arguments_json", call.arguments_json))
