"""What a caller asks for, in text: validated values, free of any wire format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from qwire.engine.constraint import Constraint
from qwire.engine.request import Envelope
from qwire.text.tool import PastCall, TextMap, Tool


class Role(Enum):
    """Who speaks. The values are the names that Qwen's chat templates use."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. Control tokens inside its texts are ordinary characters.

    Attributes:
        role: Who speaks.
        text: What is said; the result, for TOOL.
        tool_calls: Calls that the assistant asked for.
        tool_call_id: The call whose result this is, for TOOL.
        tool_name: The tool that was called, for TOOL.
        reasoning: The thinking that preceded what the assistant says, without its tags; empty = none.
    """

    role: Role
    text: str
    tool_calls: tuple[PastCall, ...] = ()
    tool_call_id: str = ""
    tool_name: str = ""
    reasoning: str = ""

    def mapped(self, change: TextMap) -> ChatMessage:
        """Return the message with every text in it changed."""
        return ChatMessage(
            self.role,
            change(self.text),
            tuple(call.mapped(change) for call in self.tool_calls),
            change(self.tool_call_id),
            change(self.tool_name),
            change(self.reasoning),
        )


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation to continue with the assistant's next message.

    Attributes:
        messages: The messages, oldest first.
        tools: What the assistant may ask to have called.
        thinking: Whether it thinks before it answers; None = the model's own default.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None

    def mapped(self, change: TextMap) -> ChatPrompt:
        """Return the conversation with every text of the caller in it changed."""
        messages = tuple(message.mapped(change) for message in self.messages)
        return replace(self, messages=messages, tools=tuple(tool.mapped(change) for tool in self.tools))

    def texts(self) -> list[str]:
        """Return every text of the caller."""
        texts: list[str] = []

        def note(text: str) -> str:
            texts.append(text)
            return text

        self.mapped(note)
        return texts


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
        prompt_logprobs: Likewise; not told again in a resumed generation.
        echo: Tell the prompt's text and tokens; not again in a resumed generation.
        tool_call_fragments: Tell of calls before they are complete.
        reasoning_budget_tokens: The most tokens of thinking; None = no bound of its own.
        constraint: What the answer must match, thinking aside; None = anything.
        adapter: As of `qwire.engine.request.TokenRequest`.
    """

    prompt: Prompt
    envelope: Envelope
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: StopOptions = field(default_factory=StopOptions)
    resume: ResumePoint | None = None
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    tool_call_fragments: bool = False
    reasoning_budget_tokens: int | None = None
    constraint: Constraint | None = None
    adapter: str = ""
