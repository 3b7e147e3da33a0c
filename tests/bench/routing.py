"""What routing by prefix is worth: time to first token and reused prompt tokens, against power-of-two, in one run.

Two replicas; groups of requests share a long beginning and end differently, as calls with the same system prompt or the
turns of a conversation do. Requests come at a steady rate. Each mode gets beginnings of its own, and they take turns.

    python -m tests.bench.routing
    python -m tests.bench.routing --model qwen2.5-coder-0.5b-instruct --prefix-tokens 1000 --per-s 0.3
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from qwire.client import AsyncClient
from qwire.serve.config import AppConfig
from tests.bench.local_ray import local_ray
from tests.cluster.conftest import Cluster, app_config, ready
from tests.support.tiny_checkpoint import write_tiny_checkpoint

MODES = ("load", "prefix")


@dataclass(slots=True)
class Answers:
    """What one mode gave."""

    ttft_s: list[float] = field(default_factory=list[float])
    prompt_tokens: int = 0
    cached_tokens: int = 0


async def ask(client: AsyncClient, prompt: str, answers: Answers) -> None:
    began = time.perf_counter()
    async with client.stream(prompt, max_output_tokens=16, ignore_eos=True) as stream:
        async for _ in stream.text_stream:
            answers.ttft_s.append(time.perf_counter() - began)
            break
        usage = (await stream.generation()).finished.usage
    answers.prompt_tokens += usage.prompt_tokens
    answers.cached_tokens += usage.cached_prompt_tokens


async def round_of(client: AsyncClient, answers: Answers, arguments: argparse.Namespace, chance: random.Random) -> None:
    """Every beginning several times, in random order, at a steady rate."""
    letters = "abcdefghijklmnopqrstuvwxyz "

    def text(tokens: int) -> str:
        return "".join(chance.choice(letters) for _ in range(tokens * arguments.letters_per_token))

    beginnings = [text(arguments.prefix_tokens) for _ in range(arguments.prefixes)]
    prompts = [beginning + text(16) for beginning in beginnings for _ in range(arguments.repeats)]
    chance.shuffle(prompts)
    async with asyncio.TaskGroup() as group:
        for prompt in prompts:
            group.create_task(ask(client, prompt, answers))
            await asyncio.sleep(chance.expovariate(arguments.per_s))


async def compare(clusters: dict[str, Cluster], arguments: argparse.Namespace) -> dict[str, Answers]:
    results = {mode: Answers() for mode in MODES}
    chance = random.Random(3)  # noqa: S311 - a load, not a secret
    for number in range(arguments.rounds):
        for mode in MODES if number % 2 else reversed(MODES):
            async with AsyncClient(clusters[mode].target) as client:
                await ready(client)
                await round_of(client, results[mode], arguments, chance)
    return results


def cluster_of(mode: str, source: str) -> Cluster:
    config = app_config({"model": Path("unused")}, min_replicas=2, max_replicas=2, routing=mode)
    model = config.models[0].model_copy(update={"source": source})
    return Cluster(AppConfig.model_validate({**dict(config), "models": (model,)}), app=f"routing-{mode}")


def show(results: dict[str, Answers]) -> None:
    print("| routing | requests | TTFT p50, ms | p95, ms | mean, ms | prompt tokens reused |")
    print("|---|---|---|---|---|---|")
    for mode, one in results.items():
        cuts = statistics.quantiles(one.ttft_s, n=20)
        share = one.cached_tokens / one.prompt_tokens
        print(
            f"| {mode} | {len(one.ttft_s)} | {1000 * cuts[9]:.0f} | {1000 * cuts[18]:.0f} "
            f"| {1000 * statistics.mean(one.ttft_s):.0f} | {100 * share:.0f} % |"
        )


def main() -> None:
    arguments = _parse()
    with tempfile.TemporaryDirectory() as name:
        source = arguments.model or str(write_tiny_checkpoint(Path(name)))
        with local_ray():
            clusters = {mode: cluster_of(mode, source) for mode in MODES}
            for cluster in clusters.values():
                cluster.deploy()
            show(asyncio.run(compare(clusters, arguments)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a served model; default: a tiny one, a token per letter")
    parser.add_argument("--letters-per-token", type=int, default=1)
    parser.add_argument("--prefixes", type=int, default=8, help="beginnings in a round")
    parser.add_argument("--prefix-tokens", type=int, default=3000, help="length of a beginning")
    parser.add_argument("--repeats", type=int, default=6, help="requests with each beginning in a round")
    parser.add_argument("--per-s", type=float, default=4.0, help="requests per second")
    parser.add_argument("--rounds", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
