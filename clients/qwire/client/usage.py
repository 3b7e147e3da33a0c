"""What a generation cost, in tokens and in time."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from qwire.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens generated, the one that ended the output included.
        cached_prompt_tokens: Prompt tokens whose computation was reused; part of prompt_tokens.
        reasoning_tokens: Output tokens spent on thinking; part of output_tokens.
    """

    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int = 0
    reasoning_tokens: int = 0

    @classmethod
    def from_proto(cls, proto: types_pb2.Usage) -> Usage:
        """Convert the message."""
        return cls(proto.prompt_tokens, proto.output_tokens, proto.cached_prompt_tokens, proto.reasoning_tokens)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, as the server's clock saw it; seconds.

    Attributes:
        queue_s: From arrival at the model to its first computation.
        prefill_s: From there to the first token.
        decode_s: From the first token to the last.
        total_s: From arrival at the gateway to the last token.
        time_to_first_token_s: From arrival at the gateway to the first token.
    """

    queue_s: float
    prefill_s: float
    decode_s: float
    total_s: float
    time_to_first_token_s: float

    @classmethod
    def from_proto(cls, proto: types_pb2.Timings) -> Timings:
        """Convert the message."""
        return cls(
            queue_s=seconds(proto.queue),
            prefill_s=seconds(proto.prefill),
            decode_s=seconds(proto.decode),
            total_s=seconds(proto.total),
            time_to_first_token_s=seconds(proto.time_to_first_token),
        )


def seconds(duration: Duration) -> float:
    """Return a protobuf duration in seconds."""
    return duration.seconds + duration.nanos / 1e9
