"""What is asked of every side: prompts, lengths and arrival times."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Encode = Callable[[str], list[int]]
"""Turns a text into a prompt."""

_TASKS = ("reverses a string", "merges two lists", "parses an ISO date", "flattens a nested list", "counts words")
_PREFIX_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, greedy and of fixed length.

    Attributes:
        prompt: Its token ids.
        tokens: Output tokens, the end of the turn ignored.
        at_s: When it arrives, seconds after the run began.
    """

    prompt: list[int]
    tokens: int
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of a run.

    Attributes:
        name: Stands in the tables.
        requests: In the order of their arrival.
    """

    name: str
    requests: list[Request]

    def as_json(self) -> list[dict[str, Any]]:
        """Return what a side reads."""
        return [asdict(request) for request in self.requests]


def at_once(encode: Encode, streams: int, tokens: int, seed: int) -> Workload:
    """Requests that arrive together. Another seed makes other prompts, so that no side remembers them."""
    return Workload(str(streams), [Request(prompt, tokens) for prompt in _prompts(encode, streams, seed)])


def poisson(encode: Encode, count: int, tokens: int, rate_per_s: float, seed: int) -> Workload:
    """Requests whose distances are exponentially distributed, `rate_per_s` of them a second on average."""
    random_source = random.Random(seed)  # noqa: S311 - the same arrivals for every side
    at_s, requests = 0.0, list[Request]()
    for prompt in _prompts(encode, count, seed):
        at_s += random_source.expovariate(rate_per_s)
        requests.append(Request(prompt, tokens, at_s))
    return Workload("poisson", requests)


def shared_prefix(encode: Encode, streams: int, tokens: int, seed: int) -> Workload:
    """Requests that arrive together and begin with the same 1,000 tokens."""
    text = f"Case {seed}. " + "".join(f"Rule {number}: keep item {number * 7 + seed}. " for number in range(200))
    prefix = encode(text)[:_PREFIX_TOKENS]
    assert len(prefix) == _PREFIX_TOKENS
    return Workload("shared prefix", [Request(prefix + prompt, tokens) for prompt in _prompts(encode, streams, seed)])


def random_tokens(vocabulary: int) -> Encode:
    """Return an encoding for models without a tokenizer: as many random tokens as the text has words, and a few."""

    def encode(text: str) -> list[int]:
        random_source = random.Random(text)  # noqa: S311 - the same prompt each time
        return [random_source.randrange(vocabulary) for _ in range(len(text) // 4)]

    return encode


def _prompts(encode: Encode, count: int, seed: int) -> list[list[int]]:
    # They differ from the first tokens on: what one leaves in a cache is of no use to another.
    return [
        encode(
            f"{seed * 100 + number}: write a Python function that {_TASKS[number % len(_TASKS)]}. "
            + "Explain each step. " * (4 + number % 7)
        )
        for number in range(count)
    ]
