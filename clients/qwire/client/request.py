"""Builds the request messages: pure functions that both clients share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from google.protobuf.message import Message as ProtoMessage

from qwire.client.conversation import conversation, json_text, tool_of
from qwire.client.errors import InvalidRequest
from qwire.client.generation_options import GenerationOptions, Priority
from qwire.client.generation_reader import GenerationReader
from qwire.client.prompt import ChatMessage, Prompt, Role, TextPrompt, TokenPrompt
from qwire.client.resume_point import ResumePoint
from qwire.client.tool import Tool
from qwire.v1 import generate_pb2, types_pb2

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_STOP = ("max_output_tokens", "min_output_tokens", "stop_strings", "stop_token_ids", "ignore_eos")
_OUTPUT = ("token_info", "top_logprobs", "echo", "prompt_logprobs", "tool_call_fragments")
_CONSTRAINT = ("json_schema", "json_object", "regex", "choices", "grammar")
_ROLES = {
    Role.SYSTEM: types_pb2.ROLE_SYSTEM,
    Role.USER: types_pb2.ROLE_USER,
    Role.ASSISTANT: types_pb2.ROLE_ASSISTANT,
    Role.TOOL: types_pb2.ROLE_TOOL,
}
_PRIORITIES = {
    None: types_pb2.PRIORITY_UNSPECIFIED,
    Priority.LOW: types_pb2.PRIORITY_LOW,
    Priority.NORMAL: types_pb2.PRIORITY_NORMAL,
    Priority.HIGH: types_pb2.PRIORITY_HIGH,
}

_HasTools = types_pb2.GenerationSpec | generate_pb2.CountTokensRequest


def generation_spec(prompt: Prompt, options: GenerationOptions, path: str = "spec") -> types_pb2.GenerationSpec:
    """Build the message of one generation.

    Args:
        prompt: What to continue.
        options: How.
        path: Where the message stands in its request, for errors.

    Raises:
        InvalidRequest: A value cannot be sent: wrong type, or out of its field's range. What can be sent is judged by
            the server.
        TypeError: An option does not exist.
    """
    unknown = options.keys() - GenerationOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option {min(unknown)!r}; options are {', '.join(GenerationOptions.__annotations__)}")
    spec = types_pb2.GenerationSpec()
    _assign(spec, path, {"model": options.get("model"), "adapter": options.get("adapter")})
    _set_prompt(spec, prompt, options.get("system"), path)
    for name, keys in (("sampling", _SAMPLING), ("stop", _STOP), ("output", _OUTPUT)):
        values = {key: options.get(key) for key in keys}
        if any(value is not None for value in values.values()):
            part = cast("ProtoMessage", getattr(spec, name))
            part.SetInParent()
            _assign(part, f"{path}.{name}", values)
    _set_logit_bias(spec.sampling, options.get("logit_bias"), f"{path}.sampling.logit_bias")
    if (tools := options.get("tools")) is not None:
        _set_tools(spec, tools, path)
    reasoning = {"enabled": options.get("reasoning"), "budget_tokens": options.get("reasoning_budget_tokens")}
    _set_reasoning(spec, reasoning, path)
    _set_constraint(spec, {key: options.get(key) for key in _CONSTRAINT}, path)
    spec.priority = priority_of(options.get("priority"), f"{path}.priority")
    return spec


def stream_request(
    spec: types_pb2.GenerationSpec, resume: ResumePoint | None, *, resumable: bool
) -> tuple[generate_pb2.StreamGenerateRequest, GenerationReader]:
    """Build the message of StreamGenerate, and what reads its answer.

    Args:
        spec: What to generate; changed as the rest demands.
        resume: Where to go on; None = at the beginning.
        resumable: Have tokens reported in any case.

    Raises:
        InvalidRequest: A value of `resume` cannot be sent.
    """
    if resume is not None:
        resume.write(spec)
    output = spec.output
    unwanted = output.HasField("token_info") and not output.token_info
    hide_tokens = resumable and unwanted and not output.HasField("top_logprobs")  # that the server is to refuse
    if hide_tokens:
        output.token_info = True
    return generate_pb2.StreamGenerateRequest(spec=spec), GenerationReader(spec, hide_tokens=hide_tokens)


def count_request(
    prompt: Prompt,
    model: str,
    system: str | None,
    tools: Sequence[Tool | Mapping[str, Any]] | None = None,
    reasoning: bool | None = None,  # noqa: FBT001 - an option like the others
) -> generate_pb2.CountTokensRequest:
    """Build the message of CountTokens.

    Raises:
        InvalidRequest: As `generation_spec`; or the prompt is a TokenPrompt, whose tokens are counted already.
    """
    if isinstance(prompt, TokenPrompt):
        raise InvalidRequest.of("input", "a TokenPrompt is counted already: its length is the count")
    request = generate_pb2.CountTokensRequest()
    set_field(request, "", "model", model)
    _set_prompt(request, prompt, system, "")
    if tools is not None:
        _set_tools(request, tools, "")
    _set_reasoning(request, {"enabled": reasoning}, "")
    return request


def _set_prompt(
    target: types_pb2.GenerationSpec | generate_pb2.CountTokensRequest, prompt: Prompt, system: str | None, path: str
) -> None:
    if isinstance(prompt, TextPrompt | TokenPrompt):
        if system is not None:
            raise InvalidRequest.of(_join(path, "chat"), "system needs a conversation, not a text or token prompt")
        if isinstance(prompt, TextPrompt):
            set_field(target, path, "text", prompt.text)
        elif isinstance(target, types_pb2.GenerationSpec):
            target.tokens.SetInParent()
            set_field(target.tokens, _join(path, "tokens"), "ids", prompt.ids)
        return
    messages = [] if system is None else [ChatMessage(Role.SYSTEM, system)]
    chat_path = _join(path, "chat.messages")
    messages += conversation(prompt, chat_path)
    target.chat.SetInParent()
    for position, message in enumerate(messages):
        at = f"{chat_path}[{position}]"
        added = target.chat.messages.add(role=_ROLES[message.role])
        set_field(added, at, "text", message.text)
        set_field(added, at, "tool_call_id", message.tool_call_id)
        set_field(added, at, "reasoning", message.reasoning)
        for index, call in enumerate(message.tool_calls):
            values = {"id": call.id, "name": call.name, "arguments_json": call.arguments_json}
            _assign(added.tool_calls.add(), f"{at}.tool_calls[{index}]", values)


def _set_tools(target: _HasTools, tools: object, path: str) -> None:
    field = _join(path, "tools.tools")
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise InvalidRequest.of(field, f"a sequence of tools is needed, got {type(tools).__name__}")
    target.tools.SetInParent()
    for position, given in enumerate(cast("Sequence[Tool | Mapping[str, Any]]", tools)):
        at = f"{field}[{position}]"
        tool = tool_of(given, at)
        added = target.tools.tools.add()
        set_field(added, at, "name", tool.name)
        set_field(added, at, "description", tool.description)
        if tool.parameters is not None:
            schema = "parameters_json_schema"
            set_field(added, at, schema, json_text(tool.parameters, f"{at}.{schema}"))


def _set_reasoning(target: _HasTools, values: Mapping[str, Any], path: str) -> None:
    if any(value is not None for value in values.values()):
        target.reasoning.SetInParent()
        _assign(target.reasoning, _join(path, "reasoning"), values)


def _set_logit_bias(sampling: types_pb2.SamplingOptions, biases: Mapping[int, float] | None, path: str) -> None:
    if biases is None:
        return
    if not isinstance(biases, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidRequest.of(path, f"a mapping of token ids is needed, got {type(biases).__name__}")
    for position, (token_id, bias) in enumerate(biases.items()):
        _assign(sampling.logit_bias.add(), f"{path}[{position}]", {"token_id": token_id, "bias": bias})


def _set_constraint(spec: types_pb2.GenerationSpec, options: Mapping[str, Any], path: str) -> None:
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) > 1:
        raise InvalidRequest.of(f"{path}.constraint", f"at most one is allowed, got {', '.join(given)}")
    for name, value in given.items():
        if name == "choices":
            spec.constraint.choice.SetInParent()
            set_field(spec.constraint.choice, f"{path}.constraint.choice", name, value)
        elif name == "json_schema" and isinstance(value, Mapping):
            set_field(spec.constraint, f"{path}.constraint", name, json_text(value, f"{path}.constraint.json_schema"))
        else:
            set_field(spec.constraint, f"{path}.constraint", name, value)


def priority_of(priority: Priority | None, field: str) -> types_pb2.Priority.ValueType:
    """Return a priority's number.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        return _PRIORITIES[priority]
    except (KeyError, TypeError):
        raise InvalidRequest.of(field, f"must be a Priority, got {type(priority).__name__}") from None


def _assign(message: ProtoMessage, path: str, values: Mapping[str, Any]) -> None:
    """Set the fields whose value is not None."""
    for name, value in values.items():
        if value is not None:
            set_field(message, path, name, value)


def set_field(message: ProtoMessage, path: str, name: str, value: Any) -> None:
    """Set a field, turning protobuf's own complaints into errors that name it.

    Args:
        message: Whose.
        path: Where the message stands in its request.
        name: The field.
        value: What it gets; of a repeated field what is appended.

    Raises:
        InvalidRequest: It cannot hold that.
    """
    field = _join(path, name)
    try:
        if not message.DESCRIPTOR.fields_by_name[name].is_repeated:
            setattr(message, name, value)
        elif isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise InvalidRequest.of(field, f"a sequence is needed, got {type(value).__name__}")
        else:
            getattr(message, name).extend(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest.of(field, f"{error} (from {type(value).__name__})") from error


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
