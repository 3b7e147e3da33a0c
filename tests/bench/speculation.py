"""What prompt lookup saves where an answer repeats its question, and what jump-ahead saves under a constraint.

One stream asks for a piece of code with a change, greedy, by the default model; each pair does it without and with
speculation, in an order that turns, over an engine of its own each, as the threads of two would wait for each other.
The tokens of both must be equal. Then an answer to a JSON Schema: what is forced takes no step.

    python -m tests.bench.speculation
    python -m tests.bench.speculation --pairs 5 --draft-tokens 8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from qwire.engine.chunk import Finish
from qwire.engine.config import EngineConfig
from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.models.checkpoint import Checkpoint
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir

CODE = '''
class Inventory:
    """Counts how many of each article are there."""

    def __init__(self) -> None:
        self.articles: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        if count < 1:
            raise ValueError("count must be at least 1")
        self.articles[name] = self.articles.get(name, 0) + count

    def remove(self, name: str, count: int = 1) -> None:
        if self.articles.get(name, 0) < count:
            raise KeyError(name)
        self.articles[name] -= count
        if self.articles[name] == 0:
            del self.articles[name]

    def total(self) -> int:
        return sum(self.articles.values())
'''
EDIT = f"Rename the method `total` to `sum` and return the whole class, unchanged otherwise.\n```python{CODE}```"
SCHEMA = {
    "type": "object",
    "properties": {
        "class_name": {"type": "string", "pattern": "^[A-Z][A-Za-z]{1,20}$"},
        "number_of_methods": {"type": "integer", "minimum": 0, "maximum": 99},
        "programming_language": {"enum": ["python", "javascript", "java"]},
        "has_a_documentation_string": {"type": "boolean"},
    },
    "required": ["class_name", "number_of_methods", "programming_language", "has_a_documentation_string"],
    "additionalProperties": False,
}
DESCRIBE = f"Describe this class as JSON.\n```python{CODE}```"


@dataclass(frozen=True, slots=True)
class Run:
    """One answer.

    Attributes:
        seconds: From the request to the last token.
        decode_s: From the first token to the last one.
        token_ids: The answer.
        finish: How it ended.
        steps: Steps that it took, those of the prompt included.
    """

    seconds: float
    decode_s: float
    token_ids: list[int]
    finish: Finish
    steps: int


async def answer(engine: LocalEngine, prompt: list[int], tokens: int, constraint: Constraint | None = None) -> Run:
    request = TokenRequest(tuple(prompt), Envelope(uuid.uuid4().hex), StopParams(tokens), constraint=constraint)
    steps = (await engine.stats()).steps
    began, first = time.perf_counter(), 0.0
    token_ids: list[int] = []
    finish: Finish | None = None
    async for chunk in engine.generate(request):
        first = first or time.perf_counter()
        token_ids += chunk.token_ids
        finish = chunk.finish
    assert finish is not None
    now = time.perf_counter()
    return Run(now - began, now - first, token_ids, finish, (await engine.stats()).steps - steps)


async def one_side(checkpoint: Checkpoint, config: EngineConfig, prompt: list[int], tokens: int) -> Run:
    engine = await LocalEngine.start(checkpoint, config)
    await answer(engine, prompt[:8], 4)  # warm
    run = await answer(engine, prompt, tokens)
    await engine.close()
    return run


async def main() -> None:
    arguments = _parse()
    checkpoint = ModelStore(cache_dir(None)).resolve(arguments.model)
    sides = [
        EngineConfig(device="cpu", quantization=arguments.quantization, speculation=speculation, draft_tokens=drafts)
        for speculation, drafts in (("none", 1), ("prompt-lookup", arguments.draft_tokens))
    ]
    edit, describe = (_chat(checkpoint.folder, text) for text in (EDIT, DESCRIBE))
    pairs: list[tuple[Run, Run]] = []
    for index in range(arguments.pairs):
        order = [0, 1] if index % 2 == 0 else [1, 0]
        runs = {side: await one_side(checkpoint, sides[side], edit, arguments.tokens) for side in order}
        pairs.append((runs[0], runs[1]))
    plain, guessed = pairs[0]
    if any(one.token_ids != other.token_ids for one, other in pairs):
        sys.exit("speculation changed the answer")
    print(f"{len(edit)} prompt tokens, {len(plain.token_ids)} output tokens, {len(pairs)} pairs, 1 stream")
    print(f"  steps {plain.steps} without, {guessed.steps} with; {_acceptance(guessed.finish)}")
    for name, values in (
        ("decode, tokens/s, without", [(len(one.token_ids) - 1) / one.decode_s for one, _ in pairs]),
        ("decode, tokens/s, with", [(len(one.token_ids) - 1) / one.decode_s for _, one in pairs]),
        ("ratio, decode", [one.decode_s / other.decode_s for one, other in pairs]),
        ("ratio, prompt included", [one.seconds / other.seconds for one, other in pairs]),
    ):
        print(f"  {name}: {statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
    engine = await LocalEngine.start(checkpoint, sides[0])
    constraint = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))
    run = await answer(engine, describe, 200, constraint)
    await engine.close()
    print(f"JSON Schema, no speculation: {len(run.token_ids)} tokens in {run.steps} steps; {_acceptance(run.finish)}")


def _chat(folder: Path, text: str) -> list[int]:
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(rendered, add_special_tokens=False).ids


def _acceptance(finish: Finish) -> str:
    return f"{finish.drafted_tokens} drafted, {finish.accepted_tokens} accepted"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL_ID, help="catalogue id, folder or hub name")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--quantization", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
