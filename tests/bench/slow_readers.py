"""What fifty callers that stop reading cost on Ray: memory, and the time between a healthy stream's tokens.

A healthy stream runs beside fifty streams that read, then beside fifty that took their first message and no more, in
alternation.

    python -m tests.bench.slow_readers
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import psutil

from qwire.client import AsyncClient
from qwire.v1 import generate_pb2 as pb
from qwire.v1.generate_pb2_grpc import GenerateServiceStub
from qwire.v1.types_pb2 import GenerationSpec, StopOptions
from tests.bench.busy_cluster import BusyCluster, busy_cluster
from tests.cluster.conftest import ready

READERS, TOKENS = 50, 3000
MOST_MIB, MOST_RATIO = 64.0, 1.2
NARROW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))


async def begin(target: str, stack: AsyncExitStack) -> Any:
    """Start a long stream on a connection of its own and read its first message."""
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options=NARROW))
    spec = GenerationSpec(text="abc", stop=StopOptions(max_output_tokens=TOKENS, ignore_eos=True))
    call = GenerateServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(spec=spec))
    await call.read()
    return call


async def read(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def gaps_ms(target: str, tokens: int) -> list[float]:
    """Return the times between the tokens of a healthy stream."""
    async with AsyncExitStack() as stack:
        call = await begin(target, stack)
        gaps: list[float] = []
        last = 0.0
        while len(gaps) < tokens:
            response = await call.read()
            now = time.perf_counter()
            count = len(response.delta.tokens)
            if last:
                gaps += [(now - last) * 1000 / count] * count
            last = now
        call.cancel()
    return gaps


async def measure(
    target: str, processes: Sequence[psutil.Process], *, reading: bool, tokens: int
) -> tuple[list[float], float]:
    """Return the times between tokens beside fifty others, ms, and how much the processes grew meanwhile, MiB."""
    before = _resident_bytes(processes)
    async with AsyncExitStack() as stack:
        calls = [await begin(target, stack) for _ in range(READERS)]
        readers = [asyncio.create_task(read(call)) for call in calls if reading]
        gaps = await gaps_ms(target, tokens)
        grown = (_resident_bytes(processes) - before) / 2**20
        for call in calls:
            call.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    await asyncio.sleep(2)
    return gaps, grown


def _resident_bytes(processes: Sequence[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


def _p99(gaps: list[float]) -> float:
    return sorted(gaps)[int(len(gaps) * 0.99)]


async def slow_readers(busy: BusyCluster, arguments: argparse.Namespace) -> None:
    target, processes = busy.cluster.target, (busy.gateway, busy.replica)
    async with AsyncClient(target) as client:
        await ready(client)
    await measure(target, processes, reading=True, tokens=50)  # warm: the KV cache's memory is taken when first used
    read, stalled = list[float](), list[float]()
    read_grown, stalled_grown = 0.0, 0.0
    for _ in range(arguments.pairs):
        gaps, grown = await measure(target, processes, reading=True, tokens=arguments.tokens)
        read, read_grown = read + gaps, max(read_grown, grown)
        gaps, grown = await measure(target, processes, reading=False, tokens=arguments.tokens)
        stalled, stalled_grown = stalled + gaps, max(stalled_grown, grown)
    ratio = _p99(stalled) / _p99(read)
    print(
        f"{READERS} streams of up to {TOKENS} tokens beside a healthy one, steps of {arguments.step_ms} ms and what "
        f"they compute, {arguments.pairs} times {arguments.tokens} tokens looked at; growth is of gateway and replica\n"
        f"reading  between the healthy one's tokens {_p99(read):.1f} ms p99, {read_grown:+.1f} MiB\n"
        f"stalled  between the healthy one's tokens {_p99(stalled):.1f} ms p99, {stalled_grown:+.1f} MiB\n"
        f"ratio {ratio:.2f}"
    )
    if ratio > MOST_RATIO or stalled_grown > MOST_MIB:
        sys.exit("not as it must be")


def main() -> None:
    arguments = _parse()
    engine = {"max_running": READERS + 8, "prefix_reuse": False, "kv_capacity_tokens": None}
    with busy_cluster(arguments.step_ms / 1000, engine, {"write_stall_timeout_s": 600.0}) as busy:
        asyncio.run(slow_readers(busy, arguments))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
