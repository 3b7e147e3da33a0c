"""Turns ReasoningOptions into what the text room takes, or says which fields are at fault."""

from __future__ import annotations

from qwire.rpc.fields import FieldChecker
from qwire.text.abilities import TextAbilities
from qwire.v1 import types_pb2 as pb


def thinking_of(check: FieldChecker, options: pb.ReasoningOptions, path: str, abilities: TextAbilities) -> bool | None:
    """Return whether the model is to think, unless a violation was noted; None = its own default.

    Args:
        check: Where violations are noted.
        options: The message.
        path: Where it is in its request.
        abilities: What the model can; it can think.
    """
    check.only_known(options, path)
    enabled = options.enabled if options.HasField("enabled") else None
    if enabled is False and not abilities.thinking_switch:
        check.unsupported(f"{path}.enabled", "the model always thinks")
    if enabled is False and options.HasField("budget_tokens"):
        check.refuse(f"{path}.budget_tokens", "is only allowed where the model thinks: enabled is false")
    return enabled
