"""What a constraint costs a step: the masks of all rows, computed and applied, beside the draw that they precede.

Every row follows the same JSON Schema to its end and begins again, each at a place of its own; the tokens are drawn at
random among those allowed, which meets more of the schema's places than a model would. The masks need the tokenizer of
a real model: give a folder with a tokenizer.json.

    python -m tests.bench.guided FOLDER --rows 32
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence as Values
from pathlib import Path

import torch
from llguidance import LLTokenizer

from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.masking import mask
from qwire.engine.matcher import Matcher
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.sampler import sample
from qwire.engine.sequence import Sequence

VOCABULARY = 151_936
EOS = 151_645
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "email": {"type": "string", "pattern": "^[a-z.]{1,20}@[a-z]{1,20}\\.com$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "roles": {"type": "array", "items": {"enum": ["admin", "editor", "reader"]}, "minItems": 1, "maxItems": 5},
        "notes": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["name", "email", "age", "roles", "notes"],
    "additionalProperties": False,
}
CONSTRAINT = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))


class Rows:
    """Sequences in the middle of their constrained outputs.

    Args:
        tokenizer: The vocabulary.
        rows: How many.
    """

    def __init__(self, tokenizer: LLTokenizer, rows: int) -> None:
        self._tokenizer = tokenizer
        self.sequences = [self._begin(row) for row in range(rows)]

    def advance(self, tokens: Values[int | None]) -> None:
        """Append a token to each; who has ended begins again."""
        for row, (sequence, token_id) in enumerate(zip(self.sequences, tokens, strict=True)):
            assert token_id is not None
            sequence.append(token_id, 1)
            if sequence.ended:
                self.sequences[row] = self._begin(row)

    def _begin(self, row: int) -> Sequence:
        sampling = SamplingParams(temperature=0.7, top_k=20, top_p=0.8, seed=row)
        request = TokenRequest((1, 2, 3), Envelope(str(row)), StopParams(4096), sampling, constraint=CONSTRAINT)
        matcher = Matcher(CONSTRAINT, self._tokenizer, {EOS})
        return Sequence(request, frozenset({EOS}), row, 0, matcher)


@torch.inference_mode()
def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    text = (arguments.folder / "tokenizer.json").read_text(encoding="utf-8")
    began = time.perf_counter()
    tokenizer = LLTokenizer(text, n_vocab=VOCABULARY, eos_token=EOS)
    print(f"reading the tokenizer: {time.perf_counter() - began:.2f} s, once")
    began = time.perf_counter()
    rows = Rows(tokenizer, arguments.rows)
    print(f"compiling the schema: {(time.perf_counter() - began) * 1e3 / arguments.rows:.1f} ms a request")
    generator = torch.Generator().manual_seed(1)
    masked: list[float] = []
    drawn: list[float] = []
    for step in range(-5, arguments.steps):
        logits = torch.randn(arguments.rows, VOCABULARY, generator=generator) * 3
        free = [Sequence(sequence.request, frozenset({EOS}), 0, 0) for sequence in rows.sequences]
        given, open_to_all = logits.clone(), logits.clone()
        times = [time.perf_counter()]
        mask(given, rows.sequences)
        times.append(time.perf_counter())
        sample(open_to_all, free)
        times.append(time.perf_counter())
        if step >= 0:
            masked.append((times[1] - times[0]) * 1e3)
            drawn.append((times[2] - times[1]) * 1e3)
        rows.advance(sample(logits, rows.sequences))
    print(f"{arguments.rows} rows, vocabulary {VOCABULARY}, {arguments.threads} threads; ms of {arguments.steps} steps")
    for name, values in (("masks", masked), ("draw without constraints", drawn)):
        print(f"  {name}: {_spread(values)}")


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    return (
        f"median {statistics.median(ordered):.2f}, 90 % {ordered[len(ordered) * 9 // 10]:.2f}, most {ordered[-1]:.2f}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
