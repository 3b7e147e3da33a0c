"""Lines of OpenAI's Batch API: requests in, results out.

Source: https://platform.openai.com/docs/api-reference/batch and the objects "request input" and "request output" there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from qwire.client.batch_job import BatchJobItem
from qwire.client.errors import InvalidRequest
from qwire.client.generation_options import BatchItem, GenerationOptions
from qwire.client.prompt import Prompt, TextPrompt
from qwire.client.result import FinishReason, Generation

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_SAME = {
    "model": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "tools": "tools",
}
"""Fields of a body whose meaning is that of one of our options; of two with the same, only one is allowed."""
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "stream": (False,),
    "n": (1,),
    "user": (),
    "metadata": (),
    "store": (False,),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "logprobs": (False,),
}
"""Fields that ask for nothing, with these values; none = with any value. Log-probabilities are not done: OpenAI tells
them with the tokens' texts, and here they come with their ids."""
_FINISH_REASONS = {FinishReason.LENGTH: "length", FinishReason.TOOL_CALLS: "tool_calls"}


def openai_item(line: Mapping[str, Any], where: str) -> BatchItem:
    """Return the item that a request line asks for.

    Args:
        line: The line.
        where: Where it is, for errors.

    Raises:
        InvalidRequest: It asks for something that is not done here.
    """
    body = line.get("body")
    url = line.get("url", _CHAT)
    if not isinstance(body, Mapping) or line.get("method", "POST") != "POST" or url not in (_CHAT, _COMPLETIONS):
        raise InvalidRequest.of(where, f"a POST to {_CHAT} or {_COMPLETIONS} with a body is needed")
    fields = dict(cast("Mapping[str, Any]", body))
    prompt = cast("Prompt", fields.pop("messages", None)) if url == _CHAT else TextPrompt(fields.pop("prompt", ""))
    options: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name in _SAME:
            option = _SAME[name]
            if option in options:
                others = [other for other, same in _SAME.items() if same == option and other != name]
                raise InvalidRequest.of(f"{where}.body.{name}", f"is not allowed beside {', '.join(others)}")
            options[option] = value
        elif name in _READERS:
            options |= _READERS[name](value, f"{where}.body.{name}")
        elif name not in _HARMLESS or not _is_one_of(value, _HARMLESS[name]):
            raise InvalidRequest.of(f"{where}.body.{name}", "is not done here")
    return BatchItem(prompt, id=str(line["custom_id"]), options=cast("GenerationOptions", options))


def _is_one_of(value: object, allowed: tuple[object, ...]) -> bool:
    # Equal is not enough: to Python, False is 0, and 0 asks for something.
    return not allowed or any(type(value) is type(one) and value == one for one in allowed)


def openai_result(item: BatchJobItem) -> dict[str, Any]:
    """Return the result line of an item; its id names the item's cursor.

    It is that of a chat completion whatever was asked for: a job does not keep which form its items had.
    """
    line: dict[str, Any] = {"id": f"batch_req_{item.cursor}", "custom_id": item.id, "response": None, "error": None}
    if item.generation is not None:
        generation = item.generation
        line["response"] = {
            "status_code": 200,
            "request_id": generation.started.generation_id,
            "body": _completion(generation),
        }
    elif item.error is not None:
        line["error"] = {"code": (item.error.reason or item.state.value).lower(), "message": item.error.message}
    return line


def _completion(generation: Generation) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": generation.text}
    if generation.reasoning:
        message["reasoning_content"] = generation.reasoning
    if generation.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in generation.tool_calls
        ]
    usage = generation.usage
    return {
        "id": generation.started.generation_id,
        "object": "chat.completion",
        "model": generation.started.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": _FINISH_REASONS.get(generation.finished.reason, "stop"),
            }
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.prompt_tokens + usage.output_tokens,
        },
    }


def token_biases(value: object, where: str) -> dict[int, float]:
    """Return biases by token id; JSON's keys are strings.

    Raises:
        InvalidRequest: It is no object, or a key of it no token id.
    """
    try:
        biases = cast("Mapping[str, float]", value)
        return {int(token_id): bias for token_id, bias in biases.items()}
    except (AttributeError, ValueError):
        raise InvalidRequest.of(where, "an object with token ids as keys is needed") from None


def _logit_bias(value: object, where: str) -> dict[str, Any]:
    return {"logit_bias": token_biases(value, where)}


def _stop(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stop_strings": [value]}
    if isinstance(value, list):
        return {"stop_strings": value}
    raise InvalidRequest.of(where, "a string or a list of strings is needed")


def _response_format(value: object, where: str) -> dict[str, Any]:
    match value:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"json_object": True}
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"json_schema": json.dumps(schema)}
        case _:
            raise InvalidRequest.of(where, "text, json_object or json_schema is needed")


_READERS: Mapping[str, Callable[[object, str], dict[str, Any]]] = {
    "stop": _stop,
    "logit_bias": _logit_bias,
    "response_format": _response_format,
}
