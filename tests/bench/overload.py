"""What an application on Ray does with five times what it can: goodput, refusals, and a quiet caller beside a flood.

Saturation is measured with twice as many callers as places, before and after; then requests arrive at random (Poisson)
at five times the rate that was served, and none of them tries again. Beside them a caller under another name asks for
one answer after the other.

    python -m tests.bench.overload
    python -m tests.bench.overload --seconds 30 --step-ms 40
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

from qwire.client import AsyncClient, ClientOptions, Overloaded, QwireError
from qwire.client.started import Started
from tests.bench.busy_cluster import busy_cluster
from tests.cluster.conftest import ready

PLACES, WAITING, FACTOR = 8, 32, 5
LEAST_GOODPUT, MOST_REFUSAL_MS = 0.9, 50.0


@dataclass(slots=True)
class Tally:
    """What became of requests."""

    ended: list[tuple[float, int]] = field(default_factory=list)
    """When each good answer ended, and its tokens."""
    first_token_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    without_retry: int = 0
    failed: list[str] = field(default_factory=list)

    def tokens_per_s(self, since: float, until: float) -> float:
        return sum(tokens for ended, tokens in self.ended if since <= ended < until) / (until - since)

    def requests_per_s(self, since: float, until: float) -> float:
        return sum(since <= ended < until for ended, _ in self.ended) / (until - since)


async def ask(client: AsyncClient, choose: random.Random, tally: Tally) -> None:
    """Ask for one answer of 16 to 48 tokens."""
    began, started, spoke, tokens = time.perf_counter(), False, False, choose.randint(16, 48)
    prompt = "".join(choose.choices("abcdefgh ", k=40))
    try:
        async for event in client.stream(prompt, max_output_tokens=tokens, ignore_eos=True):
            if isinstance(event, Started):
                started = True
            elif not spoke and getattr(event, "tokens", ()):
                tally.first_token_s.append(time.perf_counter() - began)
                spoke = True
        tally.ended.append((time.perf_counter(), tokens))
    except QwireError as error:
        if isinstance(error, Overloaded) and not started:
            tally.refused_s.append(time.perf_counter() - began)
            tally.without_retry += error.retry_after_s is None
        else:
            tally.failed.append(repr(error))


async def saturate(client: AsyncClient, choose: random.Random, seconds: float) -> tuple[float, float]:
    """Return tokens and requests a second with twice as many callers as places."""
    tally = Tally()
    began = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < seconds:
            await ask(client, choose, tally)

    await asyncio.gather(*(caller() for _ in range(2 * PLACES)))
    assert not tally.failed, tally.failed[:3]
    window = (began + seconds / 5, began + seconds)
    return tally.tokens_per_s(*window), tally.requests_per_s(*window)


async def flood(
    clients: tuple[AsyncClient, AsyncClient], choose: random.Random, seconds: float, rate: float
) -> tuple[Tally, Tally, float]:
    """Return what became of the flood, of the quiet caller, and the tokens a second of all good answers."""
    client, quiet_client = clients
    flooded, quiet = Tally(), Tally()
    began = time.perf_counter()

    async def ask_now_and_then() -> None:
        while time.perf_counter() - began < seconds:
            await ask(quiet_client, choose, quiet)

    beside = asyncio.create_task(ask_now_and_then())
    asked: list[asyncio.Task[None]] = []
    due = began
    while due < began + seconds:
        due += choose.expovariate(rate)
        await asyncio.sleep(due - time.perf_counter())
        asked.append(asyncio.create_task(ask(client, choose, flooded)))
    await asyncio.gather(beside, *asked)
    window = (began + seconds / 5, began + seconds)
    return flooded, quiet, flooded.tokens_per_s(*window) + quiet.tokens_per_s(*window)


async def overload(target: str, arguments: argparse.Namespace) -> None:
    choose = random.Random(1)  # noqa: S311 - the same workload each time
    options = [ClientOptions(retry=None, tenant=tenant) for tenant in ("flood", "quiet")]
    async with AsyncClient(target, options[0]) as client, AsyncClient(target, options[1]) as quiet_client:
        await ready(client)
        await saturate(client, choose, 3.0)  # warm
        before, rate = await saturate(client, choose, arguments.seconds)
        flooded, quiet, goodput = await flood((client, quiet_client), choose, arguments.seconds, FACTOR * rate)
        after, _ = await saturate(client, choose, arguments.seconds)
    ratio = goodput / statistics.mean((before, after))
    refused_ms = sorted(seconds * 1000 for seconds in flooded.refused_s)
    p50, p99 = (refused_ms[int(len(refused_ms) * share)] for share in (0.5, 0.99))
    failed = flooded.failed + quiet.failed
    requests = len(refused_ms) + len(flooded.ended) + len(flooded.failed)
    print(
        f"{PLACES} places, {WAITING} waiting, steps of {arguments.step_ms} ms and what they compute; "
        f"{arguments.seconds:g} s each\n"
        f"saturation  {before:.0f} tokens/s before, {after:.0f} after; {rate:.1f} requests/s\n"
        f"{FACTOR} x         {goodput:.0f} tokens/s, ratio {ratio:.3f}; {requests} requests, {len(refused_ms)} refused "
        f"in {p50:.1f} ms p50, {p99:.1f} ms p99, {flooded.without_retry} of them without RetryInfo; "
        f"{len(failed)} admitted ones failed\n"
        f"quiet       {len(quiet.ended)} answers, {len(quiet.refused_s)} refused, TTFT p50 "
        f"{statistics.median(quiet.first_token_s) * 1000:.0f} ms beside "
        f"{statistics.median(flooded.first_token_s) * 1000:.0f} ms of the flood's"
    )
    if failed or flooded.without_retry or ratio < LEAST_GOODPUT or p99 > MOST_REFUSAL_MS:
        sys.exit(f"not as it must be: {failed[:3]}")


def main() -> None:
    arguments = _parse()
    with busy_cluster(arguments.step_ms / 1000, {"max_running": PLACES, "max_waiting": WAITING}) as busy:
        asyncio.run(overload(busy.cluster.target, arguments))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--step-ms", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
