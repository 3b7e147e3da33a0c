"""What a model takes and says beyond plain text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextAbilities:
    """What a model's chat template and tokenizer make of it.

    Attributes:
        chat: It takes conversations.
        tools: It takes tools, and writes calls that can be told from text.
        thinking: It thinks before it answers, or can be asked to.
        thinking_switch: It can be asked to, and not to.
    """

    chat: bool
    tools: bool = False
    thinking: bool = False
    thinking_switch: bool = False
