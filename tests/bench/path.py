"""What the path costs: a client through gRPC, gateway and Ray against the same engine in this process.

Both sides answer the same prompts with the same weights, one after the other in alternation, greedy and of fixed
length, so their tokens must be equal; the ratio of their speeds is what the path leaves of the engine.

    make bench                       # 1, 4 and 16 streams, 5 pairs each
    make bench ARGS="--streams 16 --pairs 9 --tokens 128"
    make bench ARGS="--tiny --streams 1 --ttft-pairs 201"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

from qwire.client import AsyncClient, ClientOptions, QwireError
from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.store import ModelStore
from qwire.serve.config import AppConfig, ModelSettings
from qwire.serve.environment import cache_dir
from qwire.text.processor import TextProcessor
from qwire.text.request import ChatMessage, ChatPrompt, Role
from tests.support.tiny_checkpoint import write_tiny_checkpoint

TASKS = (
    "reverses a string",
    "merges two sorted lists",
    "parses an ISO date",
    "computes a moving average",
    "finds the longest palindrome in a text",
    "flattens a nested list",
    "counts the words of a file",
    "checks whether a number is prime",
)
PROMPTS = [f"Write a Python function that {TASKS[i % 8]}, variant {i // 8 + 1}. Explain each step." for i in range(32)]


@dataclass(frozen=True, slots=True)
class Run:
    """One side of a pair: `streams` generations at once."""

    tokens_per_s: float
    ttft_s: tuple[float, ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    ttft_s: float
    token_ids: tuple[int, ...]


class EngineSide:
    """The engine alone."""

    def __init__(self, engine: LocalEngine, processor: TextProcessor) -> None:
        self._engine = engine
        self._prompts = {text: tuple(processor.encode(_chat(text))) for text in PROMPTS}

    async def answer(self, text: str, tokens: int) -> Answer:
        request = TokenRequest(self._prompts[text], Envelope(uuid.uuid4().hex), StopParams(tokens, ignore_eos=True))
        began, first, token_ids = time.perf_counter(), 0.0, []
        async for chunk in self._engine.generate(request):
            first = first or time.perf_counter() - began
            token_ids.extend(chunk.token_ids)
        return Answer(first, tuple(token_ids))


class PathSide:
    """The whole path."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def answer(self, text: str, tokens: int) -> Answer:
        began, first, token_ids = time.perf_counter(), 0.0, []
        stream = self._client.stream(
            text, max_output_tokens=tokens, ignore_eos=True, temperature=0.0, repetition_penalty=1.0
        )
        async for event in stream:
            for token in getattr(event, "tokens", ()):
                first = first or time.perf_counter() - began
                token_ids.append(token.id)
        return Answer(first, tuple(token_ids))


async def run(side: EngineSide | PathSide, streams: int, tokens: int) -> Run:
    began = time.perf_counter()
    answers = await asyncio.gather(*(side.answer(text, tokens) for text in PROMPTS[:streams]))
    elapsed = time.perf_counter() - began
    outputs = tuple(answer.token_ids for answer in answers)
    assert all(len(output) == tokens for output in outputs), "a token was lost"
    return Run(streams * tokens / elapsed, tuple(answer.ttft_s for answer in answers), outputs)


async def compare(engine: EngineSide, path: PathSide, streams: int, tokens: int, pairs: int) -> None:
    ratios, engine_speed, path_speed, added_ttft, cpu = [], [], [], [], defaultdict[str, float](float)
    equal = 0
    for pair in range(pairs):
        order = (engine, path) if pair % 2 == 0 else (path, engine)
        before = _cpu_seconds()
        runs = {type(side): await run(side, streams, tokens) for side in order}
        for kind, seconds in _since(before).items():
            cpu[kind] += seconds
        alone, whole = runs[EngineSide], runs[PathSide]
        equal += alone.outputs == whole.outputs
        ratios.append(whole.tokens_per_s / alone.tokens_per_s)
        engine_speed.append(alone.tokens_per_s)
        path_speed.append(whole.tokens_per_s)
        added_ttft.append(statistics.median(whole.ttft_s) - statistics.median(alone.ttft_s))
    generated = streams * tokens * pairs
    print(
        f"{streams:>3} streams  engine {_spread(engine_speed)} tok/s  path {_spread(path_speed)} tok/s  "
        f"ratio {_spread(ratios, 3)}  added TTFT p50 {_spread([s * 1e3 for s in added_ttft])} ms  "
        f"outputs equal in {equal}/{pairs} pairs"
    )
    print("             CPU of the path beside the engine, us a token: " + _per_token(cpu, generated))


async def added_ttft(engine: EngineSide, path: PathSide, pairs: int) -> None:
    """TTFT alone, many short pairs: the figure that a person notices."""
    differences, alone_ms = [], []
    for pair in range(pairs):
        text = PROMPTS[pair % len(PROMPTS)]
        order = (engine, path) if pair % 2 == 0 else (path, engine)
        answers = {type(side): await side.answer(text, 2) for side in order}
        alone_ms.append(answers[EngineSide].ttft_s * 1e3)
        differences.append((answers[PathSide].ttft_s - answers[EngineSide].ttft_s) * 1e3)
    print(
        f"TTFT, 1 stream  engine {_spread(alone_ms)} ms  added by the path {_spread(differences)} ms  ({pairs} pairs)"
    )


async def main() -> None:
    arguments = _parse()
    # Both sides send the same prompts again and again, and each is to be computed.
    engine_config = EngineConfig(prefix_reuse=False)
    config = AppConfig(models=(ModelSettings(engine=engine_config),))
    if arguments.tiny:
        folder = write_tiny_checkpoint(Path(tempfile.mkdtemp()))
        config = AppConfig(models=(ModelSettings(source=str(folder), id="tiny", engine=engine_config),))
    checkpoint = ModelStore(cache_dir(None)).resolve(config.models[0].source)
    server = _serve(config, arguments.port)
    try:
        async with AsyncClient(f"127.0.0.1:{arguments.port}", ClientOptions(timeout_s=900.0)) as client:
            await _ready(client, server)
            local = await LocalEngine.start(checkpoint, config.models[0].engine)
            engine, path = EngineSide(local, TextProcessor.from_folder(checkpoint.folder)), PathSide(client)
            for side in (engine, path):
                await run(side, 2, 4)  # warm both
            print(
                f"{psutil.cpu_count()} CPUs, {arguments.tokens} output tokens a stream; median (min-max) of the pairs"
            )
            await added_ttft(engine, path, arguments.ttft_pairs)
            for streams in arguments.streams:
                await compare(engine, path, streams, arguments.tokens, arguments.pairs)
            await local.close()
    finally:
        server.terminate()
        server.wait(60)


def _serve(config: AppConfig, port: int) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("qwire-serve")
    file = Path(tempfile.mkdtemp()) / "serve.yaml"
    file.write_text(json.dumps({"applications": [{"args": config.model_dump(mode="json")}]}))  # JSON is YAML
    return subprocess.Popen([program, file, "--port", str(port)])


async def _ready(client: AsyncClient, server: subprocess.Popen[bytes]) -> None:
    while True:
        if server.poll() is not None:
            sys.exit(f"qwire-serve ended with {server.returncode}")
        try:
            if (await client.health()).state.serves:
                return
        except QwireError:
            pass
        await asyncio.sleep(0.2)


def _chat(text: str) -> ChatPrompt:
    return ChatPrompt((ChatMessage(Role.USER, text),))


def _cpu_seconds() -> dict[str, float]:
    """CPU seconds so far of every process of the path, by what it is; this process and the replica compute too."""
    seconds = defaultdict[str, float](float)
    for process in psutil.process_iter(["cmdline", "name"]):
        try:
            line = " ".join(process.info["cmdline"] or [process.info["name"] or ""])
            times = process.cpu_times()
        except psutil.Error:
            continue
        seconds[_kind(line)] += times.user + times.system
    return seconds


def _kind(line: str) -> str:
    for mark, kind in (
        ("ServeReplica:qwire:gateway", "gateway"),
        ("ServeReplica:qwire:model-", "replica"),
        ("ServeController", "controller"),
        ("gcs_server", "gcs"),
        ("raylet", "raylet"),
        ("ray::", "other ray"),
        ("/ray/", "other ray"),
    ):
        if mark in line:
            return kind
    return ""


def _since(before: dict[str, float]) -> dict[str, float]:
    return {kind: seconds - before.get(kind, 0.0) for kind, seconds in _cpu_seconds().items() if kind}


def _per_token(cpu: dict[str, float], generated: int) -> str:
    most_first = sorted(cpu.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {seconds / generated * 1e6:.0f}" for kind, seconds in most_first if seconds > 0)


def _spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of each stream")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--ttft-pairs", type=int, default=21)
    parser.add_argument("--tiny", action="store_true", help="a tiny random model: what is left is the path itself")
    parser.add_argument("--port", type=int, default=50151)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
