"""What a generation says: typed, frozen, free of protobuf."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qwire.client.prompt import ChatMessage, Role
from qwire.client.started import Started
from qwire.client.tool import ToolCall, ToolCallFragment
from qwire.client.usage import Timings, Usage
from qwire.v1 import generate_pb2, types_pb2


class FinishReason(Enum):
    """Why a generation ended well."""

    END_OF_TURN = "end_of_turn"
    STOP_STRING = "stop_string"
    STOP_TOKEN = "stop_token"  # noqa: S105 - a reason, not a secret
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""


class Channel(Enum):
    """What a piece of text is."""

    TEXT = "text"
    REASONING = "reasoning"
    UNKNOWN = "unknown"
    """A channel that this version of the client does not know."""


_REASONS = {
    types_pb2.FINISH_REASON_END_OF_TURN: FinishReason.END_OF_TURN,
    types_pb2.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    types_pb2.FINISH_REASON_STOP_TOKEN: FinishReason.STOP_TOKEN,
    types_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    types_pb2.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
}
_CHANNELS = {types_pb2.CHANNEL_TEXT: Channel.TEXT, types_pb2.CHANNEL_REASONING: Channel.REASONING}


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """One of the most likely tokens at a position, with its natural-log probability."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One token of the output, or of the prompt.

    Attributes:
        id: Its id in the model's vocabulary.
        logprob: Its natural-log probability; None = not reported. The prompt's first token has none.
        top: The most likely tokens at its position, most likely first; empty = not reported.
    """

    id: int
    logprob: float | None = None
    top: tuple[TokenAlternative, ...] = ()

    @classmethod
    def from_proto(cls, proto: types_pb2.TokenInfo) -> TokenInfo:
        """Convert the message."""
        top = tuple(TokenAlternative(alternative.id, alternative.logprob) for alternative in proto.top)
        return cls(proto.id, proto.logprob if proto.HasField("logprob") else None, top)


@dataclass(frozen=True, slots=True)
class PromptRead:
    """The prompt as the model reads it, where `echo` or `prompt_logprobs` asks for it; in a stream what comes next.

    Attributes:
        text: Its text, chat template and control tokens included; empty without `echo`. In a stream it may lag behind
            the tokens while a character is incomplete.
        tokens: Its tokens, with log-probabilities where `prompt_logprobs` asks for them.
    """

    text: str = ""
    tokens: tuple[TokenInfo, ...] = ()

    @classmethod
    def from_proto(cls, proto: types_pb2.GenerationPrompt) -> PromptRead:
        """Convert the message."""
        return cls(proto.text, tuple(map(TokenInfo.from_proto, proto.tokens)))


@dataclass(frozen=True, slots=True)
class Delta:
    """Output since the last delta, never cumulative.

    Attributes:
        channel: What the text is.
        text: The text; may be empty while a character or a possible stop string is incomplete.
        tokens: The tokens; the text may lag behind them. Empty where `token_info` is False.
        tool_call_fragments: More of calls that are not complete, in order, where `tool_call_fragments` asks for it.
    """

    channel: Channel
    text: str
    tokens: tuple[TokenInfo, ...]
    tool_call_fragments: tuple[ToolCallFragment, ...] = ()

    @classmethod
    def from_proto(cls, proto: generate_pb2.GenerationDelta) -> Delta:
        """Convert the message."""
        channel = _CHANNELS.get(proto.channel, Channel.UNKNOWN)
        return cls(
            channel,
            proto.text,
            tuple(map(TokenInfo.from_proto, proto.tokens)),
            tuple(map(ToolCallFragment.from_proto, proto.tool_call_fragments)),
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation ended well.

    Attributes:
        reason: Why.
        usage: Tokens read and written.
        timings: Where the time went.
        stop_string: The stop string that appeared; None = the reason is another.
        stop_token_id: The stop or end-of-sequence token that was drawn; None = the reason is another.
    """

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop_string: str | None = None
    stop_token_id: int | None = None

    @classmethod
    def from_proto(cls, proto: types_pb2.GenerationFinished) -> Finished:
        """Convert the message."""
        kind = proto.match.WhichOneof("match")
        return cls(
            reason=_REASONS.get(proto.reason, FinishReason.UNKNOWN),
            usage=Usage.from_proto(proto.usage),
            timings=Timings.from_proto(proto.timings),
            stop_string=proto.match.stop_string if kind == "stop_string" else None,
            stop_token_id=proto.match.stop_token_id if kind == "stop_token_id" else None,
        )

    @property
    def output_tokens_per_s(self) -> float | None:
        """Decoding speed after the first token; None with fewer than two tokens or no measured time."""
        if self.usage.output_tokens < 2 or self.timings.decode_s <= 0:  # noqa: PLR2004 - one interval needs two tokens
            return None
        return (self.usage.output_tokens - 1) / self.timings.decode_s


StreamEvent = Started | PromptRead | Delta | ToolCall | Finished
"""What a stream yields: `Started` once, `PromptRead`s where asked for, then `Delta`s (and `ToolCall`s), then `Finished`
once."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole generation.

    Attributes:
        started: What the server decided at the start.
        text: The answer.
        reasoning: The thinking that preceded it; empty = none.
        tool_calls: Calls that the model asks for.
        tokens: One record per output token; empty where `token_info` is False.
        finished: How it ended.
        prompt: The prompt, where it was asked for.
    """

    started: Started
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    tokens: tuple[TokenInfo, ...]
    finished: Finished
    prompt: PromptRead = PromptRead()

    @classmethod
    def from_proto(cls, proto: types_pb2.Generation) -> Generation:
        """Convert the message."""
        return cls(
            started=Started.from_proto(proto.started),
            text=proto.text,
            reasoning=proto.reasoning,
            tool_calls=tuple(map(ToolCall.from_proto, proto.tool_calls)),
            tokens=tuple(map(TokenInfo.from_proto, proto.tokens)),
            finished=Finished.from_proto(proto.finished),
            prompt=PromptRead.from_proto(proto.prompt),
        )

    @property
    def message(self) -> ChatMessage:
        """The assistant's message, to go on with the conversation: the answer, and the calls with their thinking."""
        reasoning = self.reasoning if self.tool_calls else ""  # of past answers no template keeps it
        return ChatMessage(Role.ASSISTANT, self.text, self.tool_calls, reasoning=reasoning)

    def json(self) -> Any:
        """Return the answer, parsed as JSON: for `json_schema` and `json_object`.

        Raises:
            ValueError: It is not JSON; with these options, only where it was cut short: see `finished.reason`.
        """
        return json.loads(self.text)

    @property
    def usage(self) -> Usage:
        """Tokens read and written."""
        return self.finished.usage

    @property
    def timings(self) -> Timings:
        """Where the time went."""
        return self.finished.timings
