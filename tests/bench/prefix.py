"""What a beginning that was computed before saves: time to first token of prompts that share their first tokens.

Each pair sends two prompts that begin with the same tokens, new ones in each pair, and end differently. The second one
finds the beginning in the KV cache.

    python -m tests.bench.prefix
    python -m tests.bench.prefix --prefix-tokens 4000 --pairs 5
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
import uuid

from qwire.engine.config import PAGE_TOKENS, EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir


async def ttft_s(engine: LocalEngine, prompt: tuple[int, ...], cached_tokens: int) -> float:
    request = TokenRequest(prompt, Envelope(uuid.uuid4().hex), StopParams(1))
    began = time.perf_counter()
    chunks = [chunk async for chunk in engine.generate(request)]
    elapsed_s = time.perf_counter() - began
    finish = chunks[-1].finish
    assert finish is not None
    assert finish.cached_prompt_tokens == cached_tokens, "what is reused is not what was sent before"
    return elapsed_s


async def measure(
    model: str, quantization: str, prefix_tokens: int, own_tokens: int, pairs: int
) -> tuple[list[float], list[float]]:
    """Return the times to first token of the first and of the second prompt of each pair."""
    config = EngineConfig(device="cpu", quantization=quantization, page_tokens=PAGE_TOKENS)
    engine = await LocalEngine.start(ModelStore(cache_dir(None)).resolve(model), config)
    vocabulary_tokens = (await engine.card()).vocabulary_tokens
    source = random.Random(1)  # noqa: S311 - the same prompts each time

    def text(tokens: int) -> tuple[int, ...]:
        return tuple(source.randrange(vocabulary_tokens) for _ in range(tokens))

    await ttft_s(engine, text(prefix_tokens), 0)  # warm
    first_s, second_s = [], []
    reusable = prefix_tokens // PAGE_TOKENS * PAGE_TOKENS
    for _ in range(pairs):
        prefix = text(prefix_tokens)
        first_s.append(await ttft_s(engine, prefix + text(own_tokens), 0))
        second_s.append(await ttft_s(engine, prefix + text(own_tokens), reusable))
    await engine.close()
    return first_s, second_s


def ratios(pairs: int) -> list[float]:
    """Return how many times sooner the second prompt of 1,000 shared tokens has its first token, pair by pair."""
    first_s, second_s = asyncio.run(measure(DEFAULT_MODEL_ID, "auto", 1000, 16, pairs))
    return [first / second for first, second in zip(first_s, second_s, strict=True)]


def main() -> None:
    arguments = _parse()
    prefix_tokens, own_tokens, pairs = arguments.prefix_tokens, arguments.own_tokens, arguments.pairs
    first_s, second_s = asyncio.run(measure(arguments.model, arguments.quantization, prefix_tokens, own_tokens, pairs))
    print(
        f"{prefix_tokens} shared and {own_tokens} own prompt tokens, {pairs} pairs: time to first token "
        f"{_spread(first_s)} s the first time, {_spread(second_s)} s the second time, "
        f"ratio {_spread([first / second for first, second in zip(first_s, second_s, strict=True)], 1)}"
    )


def _spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL_ID, help="catalogue id, folder or hub name")
    parser.add_argument("--prefix-tokens", type=int, default=1000)
    parser.add_argument("--own-tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--quantization", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
