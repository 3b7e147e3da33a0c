"""What the server decided when it accepted a generation."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from qwire.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling options as the server reports them; None = not reported. `GenerationOptions` says what each means."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and its bias."""

    @classmethod
    def from_proto(cls, proto: types_pb2.SamplingOptions) -> Sampling:
        """Convert the message."""
        present: dict[str, Any] = {
            f.name: _shortest(value) if f.type == f.TYPE_FLOAT else value for f, value in proto.ListFields()
        }
        present["logit_bias"] = tuple((one.token_id, _shortest(one.bias)) for one in proto.logit_bias)
        values: dict[str, Any] = {**dict.fromkeys(cls.__slots__), **present}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop options in force. `GenerationOptions` says what each means."""

    max_output_tokens: int
    min_output_tokens: int
    stop_strings: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool

    @classmethod
    def from_proto(cls, proto: types_pb2.StopOptions) -> Stop:
        """Convert the message."""
        return cls(
            max_output_tokens=proto.max_output_tokens,
            min_output_tokens=proto.min_output_tokens,
            stop_strings=tuple(proto.stop_strings),
            stop_token_ids=tuple(proto.stop_token_ids),
            ignore_eos=proto.ignore_eos,
        )


@dataclass(frozen=True, slots=True)
class Started:
    """The generation was accepted: everything that the server decided for it.

    Attributes:
        generation_id: Names the generation, for `cancel` and for the operator's logs.
        model: The id of the model that answers.
        model_revision: The revision of its weights.
        prompt_tokens: Tokens of the prompt, control tokens of the chat template included.
        sampling: The sampling in force, the seed included.
        stop: The stop options in force.
    """

    generation_id: str
    model: str
    model_revision: str
    prompt_tokens: int
    sampling: Sampling
    stop: Stop

    @classmethod
    def from_proto(cls, proto: types_pb2.GenerationStarted) -> Started:
        """Convert the message."""
        return cls(
            generation_id=proto.generation_id,
            model=proto.model,
            model_revision=proto.model_revision,
            prompt_tokens=proto.prompt_tokens,
            sampling=Sampling.from_proto(proto.sampling),
            stop=Stop.from_proto(proto.stop),
        )


def _shortest(value: float) -> float:
    """Return the shortest decimal that is the same 32-bit number: 0.7, not 0.699999988079071."""
    single = struct.Struct("f")
    candidates = (float(f"{value:.{digits}g}") for digits in (6, 7, 8))
    return next((short for short in candidates if single.pack(short) == single.pack(value)), value)
