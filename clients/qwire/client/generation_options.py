"""How to generate: the options of one generation, and one generation of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypedDict

from qwire.client.prompt import Prompt
from qwire.client.tool import Tool


class Priority(Enum):
    """Which generation goes first when the model is busy. A running one may pause for a higher one."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class GenerationOptions(TypedDict, total=False):
    """How to generate. Whatever is left out, or None, is the model's own default; zero means zero."""

    model: str
    """The id of a served model. Default: `ClientOptions.model`."""

    system: str | None
    """Instructions for the whole conversation, put before its messages. Not with TextPrompt or TokenPrompt."""

    adapter: str | None
    """The id of an adapter to apply to the model, one of `adapters()`. Needs a model with the adapters capability.
    Default: the model as it is."""

    temperature: float | None
    """Divides the logits. Range [0, 10]. 0 = greedy: the most likely token."""

    top_k: int | None
    """Keep only the k most likely tokens. 0 = off."""

    top_p: float | None
    """Keep the smallest set of most likely tokens whose probability reaches this. Range (0, 1]; 1 = off."""

    min_p: float | None
    """Drop tokens less likely than this times the most likely one. Range [0, 1]; 0 = off."""

    repetition_penalty: float | None
    """Makes tokens of prompt and output less likely. Range (0, 10]; 1 = off."""

    presence_penalty: float | None
    """Subtracted from the logit of each token that occurs in the output. Range [-2, 2]; 0 = off."""

    frequency_penalty: float | None
    """The same, once per occurrence. Range [-2, 2]; 0 = off."""

    logit_bias: Mapping[int, float] | None
    """Added to the logits of these token ids, after the penalties and before the temperature. At most 300; range
    [-100, 100]: 100 all but forces a token, -100 all but bans it. Default: none."""

    seed: int | None
    """The same request with the same seed gives the same tokens. Range [0, 2**64). Default: the server draws one and
    reports it in `Started.sampling`."""

    max_output_tokens: int | None
    """The most tokens to generate. Range [1, `Model.limits.max_output_tokens`]."""

    min_output_tokens: int | None
    """Nothing ends the output before this many tokens. Range [0, max_output_tokens]; default 0."""

    stop_strings: Sequence[str] | None
    """Ends the output where one of these appears in the answer; the match is not part of the text. At most 16, of 1 to
    256 characters."""

    stop_token_ids: Sequence[int] | None
    """Ends the output after one of these tokens. At most 64."""

    ignore_eos: bool | None
    """Go on after the model's end-of-sequence token. Default False."""

    token_info: bool | None
    """Report one `TokenInfo` per output token. Default True."""

    top_logprobs: int | None
    """Report the log-probability of each output token and of this many most likely ones, in `TokenInfo`. Range [0, 20];
    default: none are reported. Needs `token_info`."""

    echo: bool | None
    """Tell the prompt's text, after the chat template, and its tokens: `Generation.prompt`. Default False."""

    prompt_logprobs: int | None
    """Report the log-probability of each prompt token, given those before it, and of this many most likely ones:
    `Generation.prompt`. Range [0, 20]; default: none are reported. A prompt of thousands of tokens with many of them is
    too large for one message: stream it."""

    tools: Sequence[Tool | Mapping[str, Any]] | None
    """What the model may ask to have called, each name once; a mapping as OpenAI's API has it. Needs a conversation,
    and a model with the tools capability."""

    tool_call_fragments: bool | None
    """In a stream, tell of calls while the model writes them: `Delta.tool_call_fragments`. Needs tools; default
    False."""

    reasoning: bool | None
    """Whether the model thinks before it answers. Needs a conversation, and a model with the reasoning capability."""

    reasoning_budget_tokens: int | None
    """The most tokens of thinking; then the model is made to answer. Default: no bound of its own."""

    json_schema: Mapping[str, Any] | str | None
    """A JSON Schema that the answer, which is JSON, is made to match: parsed, or as text. At most one of this and the
    next four options; none with tools, ignore_eos or min_output_tokens. Default: any answer. An answer that ends with
    `FinishReason.END_OF_TURN` matches; one that is cut short is the beginning of one that would."""

    json_object: bool | None
    """Make the answer a JSON object of any kind. False is refused."""

    regex: str | None
    """A regular expression that the whole answer is made to match: Rust's notation, without look-around."""

    choices: Sequence[str] | None
    """Make the answer one of these texts. 1 to 1,024, none empty."""

    grammar: str | None
    """A context-free grammar that the whole answer is made to match, in llguidance's variant of the Lark notation."""

    priority: Priority | None
    """Which generation goes first when the model is busy. Default `Priority.NORMAL`."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One generation of a batch.

    Attributes:
        prompt: What to continue.
        id: Names the item within its batch: 1 to 64 characters, each id once. Empty = its position, from "0".
        options: How to generate; each replaces the batch's own option of that name.
    """

    prompt: Prompt
    id: str = ""
    options: GenerationOptions = field(default_factory=GenerationOptions)
