"""Where an interrupted generation stood."""

from __future__ import annotations

from dataclasses import dataclass

from qwire.client.errors import InvalidRequest
from qwire.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What it takes, beside the original prompt and options, to go on with a generation on any server.

    `QwireError.resume_point` has it after a break. It may be kept and used by another process.

    Attributes:
        output_token_ids: Every output token so far, in order: at least one, at most `max_output_tokens`.
        last_sequence: The number of the last event; the resumed stream counts on from it. 0 restarts the count.
        seed: The seed in force, as `Started.sampling` reported it; used where the options name none. None = theirs,
            which a sampled generation needs.
    """

    output_token_ids: tuple[int, ...]
    last_sequence: int = 0
    seed: int | None = None

    def write(self, spec: types_pb2.GenerationSpec, path: str = "spec") -> None:
        """Have a spec go on from here.

        Raises:
            InvalidRequest: A value is out of its field's range.
        """
        try:
            spec.resume.output_token_ids.extend(self.output_token_ids)
            spec.resume.last_sequence = self.last_sequence
            if self.seed is not None and not spec.sampling.HasField("seed"):
                spec.sampling.seed = self.seed
        except (TypeError, ValueError) as error:
            raise InvalidRequest.of(f"{path}.resume", str(error)) from error
