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
import sys
import time
import uuid

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.store import ModelStore
from qwire.serve.config import AppConfig
from qwire.serve.environment import cache_dir

LEAST_RATIO = 5.0


async def ttft_s(engine: LocalEngine, prompt: tuple[int, ...], cached_tokens: int) -> float:
    request = TokenRequest(prompt, Envelope(uuid.uuid4().hex), StopParams(1))
    began = time.perf_counter()
    chunks = [chunk async for chunk in engine.generate(request)]
    elapsed_s = time.perf_counter() - began
    finish = chunks[-1].finish
    assert finish is not None
    assert finish.cached_prompt_tokens == cached_tokens, "what is reused is not what was sent before"
    return elapsed_s


async def main() -> None:
    arguments = _parse()
    config = EngineConfig(device="cpu", quantization=arguments.quantization)
    checkpoint = ModelStore(cache_dir(None)).resolve(AppConfig().models[0].source)
    engine = await LocalEngine.start(checkpoint, config)
    vocabulary_tokens = (await engine.card()).vocabulary_tokens
    source = random.Random(1)  # noqa: S311 - the same prompts each time

    def text(tokens: int) -> tuple[int, ...]:
        return tuple(source.randrange(vocabulary_tokens) for _ in range(tokens))

    await ttft_s(engine, text(arguments.prefix_tokens), 0)  # warm
    first_s, second_s = [], []
    reusable = arguments.prefix_tokens // config.page_tokens * config.page_tokens
    for _ in range(arguments.pairs):
        prefix = text(arguments.prefix_tokens)
        first_s.append(await ttft_s(engine, prefix + text(arguments.own_tokens), 0))
        second_s.append(await ttft_s(engine, prefix + text(arguments.own_tokens), reusable))
    await engine.close()
    ratios = [first / second for first, second in zip(first_s, second_s, strict=True)]
    print(
        f"{arguments.prefix_tokens} shared and {arguments.own_tokens} own prompt tokens, {arguments.pairs} pairs: time "
        f"to first token {_spread(first_s)} s the first time, {_spread(second_s)} s the second time, "
        f"ratio {_spread(ratios, 1)}"
    )
    if statistics.median(ratios) < LEAST_RATIO:
        sys.exit(f"the second time must be {LEAST_RATIO} times faster")


def _spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix-tokens", type=int, default=1000)
    parser.add_argument("--own-tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--quantization", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
