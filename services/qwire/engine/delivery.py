"""What a step has for whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass

from qwire.engine.chunk import Finish, TokenLogprobs
from qwire.engine.errors import EngineError
from qwire.engine.sampler import DrawnToken
from qwire.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a step brought for one generation: more about its prompt, a token, the last one with `finish`, a failure."""

    sequence: Sequence
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    token: DrawnToken | None = None
    finish: Finish | None = None
    failure: EngineError | None = None
