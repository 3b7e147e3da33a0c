"""Asks a model for one real token."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass

from qwire.engine.errors import EngineUnavailable
from qwire.engine.protocol import Engine
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest

_PROMPT = (0,)
"""Every vocabulary has a token 0."""

_PRIORITY = 1
"""Before everything else: a full queue must not look like a dead model."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A model gave a token from finite logits.

    Attributes:
        token_id: The token.
        response_time_s: From asking for it to having it, seconds.
    """

    token_id: int
    response_time_s: float


async def probe(engine: Engine, deadline_unix_ns: int | None) -> ProbeResult:
    """Generate one token greedily.

    Args:
        engine: The model's engine.
        deadline_unix_ns: When to give up, nanoseconds since the epoch; None = never.

    Raises:
        EngineError: The model cannot; in particular NumericalError where its logits are not finite.
    """
    request = TokenRequest(
        prompt_token_ids=_PROMPT,
        envelope=Envelope(
            f"probe-{uuid.uuid4().hex}", priority=_PRIORITY, deadline_unix_ns=deadline_unix_ns, is_probe=True
        ),
        stop=StopParams(max_output_tokens=1),
        sampling=SamplingParams(),
    )
    asked = time.monotonic()
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            return ProbeResult(chunk.token_ids[0], time.monotonic() - asked)
    raise EngineUnavailable
