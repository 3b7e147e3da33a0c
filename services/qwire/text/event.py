"""What a generation says, in text: started, the prompt, deltas, tool calls, finished."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qwire.engine.chunk import Timings, TokenLogprobs
from qwire.engine.request import SamplingParams, StopParams
from qwire.text.splitter import Channel


class EndReason(Enum):
    """Why a generation ended well."""

    END_OF_TURN = "end_of_turn"
    STOP_STRING = "stop_string"
    STOP_TOKEN = "stop_token"  # noqa: S105 - a reason, not a secret
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    """The model ended its turn after one or more calls."""


@dataclass(frozen=True, slots=True)
class Started:
    """The generation was accepted.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        sampling: The sampling in force, seed included.
        stop: The stop parameters in force.
        stop_strings: The stop strings in force.
    """

    prompt_tokens: int
    sampling: SamplingParams
    stop: StopParams
    stop_strings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptRead:
    """More of the prompt, where it was asked for: never cumulative, all of it before the first delta.

    Attributes:
        text: Its text, control tokens shown; it may lag behind the tokens. Empty where the request has no `echo`.
        token_ids: The tokens.
        logprobs: One record per token where the request has `prompt_logprobs`, None for the prompt's first token; else
            empty.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallFragment:
    """More of a call that is not complete.

    Attributes:
        index: Which call of the output it may become, from 0.
        arguments_json: Some of its arguments, from where the last fragment ended.
        id: Names the call, with its first fragment; empty = told before.
        name: The tool's name, likewise.
        retracted: It is no call: what was told of it is void, and comes as text.
    """

    index: int
    arguments_json: str = ""
    id: str = ""
    name: str = ""
    retracted: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """Output since the last delta: never cumulative.

    Attributes:
        text: The text; it may lag behind the tokens, never run ahead.
        token_ids: The tokens.
        logprobs: One record per token where the request asks for them; else empty, as for tokens that were put in the
            model's mouth.
        channel: What the text is.
        fragments: What these tokens add to a call that is not complete, where the request asks for it.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    channel: Channel = Channel.TEXT
    fragments: tuple[ToolCallFragment, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model asks for a call. Comes right before the delta with the token that completes it.

    Attributes:
        id: Names the call; the same in a resumed generation.
        name: The tool's name.
        arguments_json: The arguments object, as it stands in the output.
    """

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation ended well.

    Attributes:
        reason: Why.
        timings: When it passed its stations in the engine.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens of the output, resumed ones and the ending one included.
        cached_prompt_tokens: Prompt tokens whose computation was reused.
        stop_string: What matched, for STOP_STRING.
        stop_token_id: What was drawn, for END_OF_TURN, TOOL_CALLS and STOP_TOKEN.
        reasoning_tokens: Output tokens spent on thinking.
    """

    reason: EndReason
    timings: Timings
    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int = 0
    stop_string: str | None = None
    stop_token_id: int | None = None
    reasoning_tokens: int = 0


GenerationEvent = Started | PromptRead | Delta | ToolCalled | Finished
"""`Started` once, `PromptRead`s where they were asked for, then `Delta`s and `ToolCalled`s, then `Finished` once; a
generation that fails raises instead."""
