"""What a caller asks for, in text: validated values, free of any wire format."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from qwire.engine.request import Envelope


class Role(Enum):
    """Who speaks. The values are the names that Qwen's chat templates use."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. Control tokens inside `text` are ordinary characters."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation to continue with the assistant's next message."""

    messages: tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue as it is, without a chat template. Control tokens inside it are ordinary characters."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue as they are."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """`qwire.engine.request.SamplingParams` with None for "the model's own default" (seed: drawn by the server)."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class StopOptions:
    """When the output ends; None and empty as in `qwire.v1.StopOptions`."""

    max_output_tokens: int | None = None
    min_output_tokens: int = 0
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Output that the caller already has; see `qwire.v1.ResumePoint`."""

    output_token_ids: tuple[int, ...]
    last_sequence: int


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, ready for a `Generator`.

    Attributes:
        prompt: What to continue.
        envelope: Who asks; its request_id names the generation.
        sampling: How tokens are drawn.
        stop: When the output ends.
        resume: Go on after output that exists; None = a new generation.
        top_logprobs: As of `qwire.engine.request.TokenRequest`.
    """

    prompt: Prompt
    envelope: Envelope
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: StopOptions = field(default_factory=StopOptions)
    resume: ResumePoint | None = None
    top_logprobs: int | None = None
