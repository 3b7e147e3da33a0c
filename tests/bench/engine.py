"""The engine alone against its peers, on the same weights and prompts, greedy and of fixed length.

Peers: transformers' `generate` (one request after the other), transformers' continuous batching, and llama.cpp on the
published 4-bit file. Every round runs every side once, in an order that turns; a ratio is of one round. Tokens per
second are output tokens of all streams, prefill included.

    make bench-engine                                         # all sides, 1, 8, 16 and 32 streams
    make bench-engine ARGS="--sides q8,llama --streams 1,8 --rounds 9"
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from qwire.engine.config import EngineConfig
from qwire.engine.loader import thread_count
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.checkpoint import Checkpoint
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir
from qwire.text.tokenizer import QwenTokenizer

MODEL = "qwen2.5-coder-0.5b-instruct"
LLAMA = Path(__file__).with_name("llama")

Prompts = Sequence[list[int]]


@dataclass(frozen=True, slots=True)
class Run:
    """One side, once.

    Attributes:
        seconds: For all streams.
        ttft_s: Time to the first token of each stream; empty where the side does not tell.
        outputs: The tokens.
    """

    seconds: float
    ttft_s: list[float]
    outputs: list[list[int]]


Side = Callable[[Prompts, int], Run]


@contextmanager
def engine_side(checkpoint: Checkpoint, quantization: str) -> Generator[Side]:
    """Our engine."""
    with asyncio.Runner() as runner:

        async def start() -> LocalEngine:
            # Every round sends the same prompts, and no peer keeps what it computed in the last one.
            config = EngineConfig(device="cpu", quantization=quantization, max_running=32, prefix_reuse=False)
            return await LocalEngine.start(checkpoint, config)

        engine = runner.run(start())

        async def answer(prompt: list[int], tokens: int, began: float) -> tuple[float, list[int]]:
            stop = StopParams(tokens, ignore_eos=True)
            first, output = 0.0, list[int]()
            async for chunk in engine.generate(TokenRequest(tuple(prompt), Envelope(uuid.uuid4().hex), stop)):
                first = first or time.perf_counter() - began
                output.extend(chunk.token_ids)
            return first, output

        async def run(prompts: Prompts, tokens: int) -> Run:
            began = time.perf_counter()
            answers = await asyncio.gather(*(answer(prompt, tokens, began) for prompt in prompts))
            seconds = time.perf_counter() - began
            return Run(seconds, [first for first, _ in answers], [output for _, output in answers])

        yield lambda prompts, tokens: runner.run(run(prompts, tokens))
        runner.run(engine.close())


def _transformers_model(checkpoint: Checkpoint) -> Any:
    torch.set_num_threads(thread_count(EngineConfig()))
    transformers.logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32, local_files_only=True).eval()


@contextmanager
def generate_side(checkpoint: Checkpoint) -> Generator[Side]:
    """transformers' `generate`, one request after the other."""
    model = _transformers_model(checkpoint)
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "temperature": None, "top_p": None, "top_k": None}

    def run(prompts: Prompts, tokens: int) -> Run:
        began = time.perf_counter()
        outputs: list[list[int]] = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            lengths = {"min_new_tokens": tokens, "max_new_tokens": tokens}
            output = model.generate(ids, attention_mask=torch.ones_like(ids), **lengths, **greedy)
            outputs.append(output[0, len(prompt) :].tolist())
        return Run(time.perf_counter() - began, [], outputs)

    yield run


@contextmanager
def continuous_batching_side(checkpoint: Checkpoint) -> Generator[Side]:
    """transformers' continuous batching."""
    model = _transformers_model(checkpoint)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)

    def run(prompts: Prompts, tokens: int) -> Run:
        generation = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        began = time.perf_counter()
        results = model.generate_batch(
            inputs=list(prompts),
            generation_config=generation,
            continuous_batching_config=ContinuousBatchingConfig(),
            persistent_manager=True,
            warmup=False,
        )
        seconds = time.perf_counter() - began
        in_order = sorted(results.values(), key=lambda result: list(prompts).index(result.prompt_ids))
        return Run(seconds, [], [result.generated_tokens for result in in_order])

    yield run


@contextmanager
def llama_side(streams: int) -> Generator[Side]:
    """llama.cpp on the published 4-bit file, through its Node binding."""
    folder = Path("build/bench-llama")
    folder.mkdir(parents=True, exist_ok=True)
    for file in LLAMA.iterdir():
        shutil.copy(file, folder)
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent"], cwd=folder, check=True)
    file = next((cache_dir(None) / "files").rglob("*.gguf"))
    command = ["node", "generate.js", str(file), str(streams), str(thread_count(EngineConfig()))]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    _answer(stdout)  # it is ready

    def run(prompts: Prompts, tokens: int) -> Run:
        stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        stdin.flush()
        answer = _answer(stdout)
        return Run(answer["seconds"], answer["ttft_s"], answer["outputs"])

    yield run
    process.terminate()
    process.wait(30)


def _answer(stdout: Any) -> Any:
    """Return the next line that is JSON; the binding prints empty ones as well."""
    while True:
        line = stdout.readline()
        assert line, "llama.cpp ended"
        with contextlib.suppress(ValueError):
            return json.loads(line)


SIDES: dict[str, Callable[[Checkpoint, int], contextlib.AbstractContextManager[Side]]] = {
    "q8": lambda checkpoint, _: engine_side(checkpoint, "q8"),
    "float32": lambda checkpoint, _: engine_side(checkpoint, "none"),
    "generate": lambda checkpoint, _: generate_side(checkpoint),
    "continuous-batching": lambda checkpoint, _: continuous_batching_side(checkpoint),
    "llama": lambda _, streams: llama_side(streams),
}


def compare(sides: dict[str, Side], prompts: Prompts, tokens: int, rounds: int) -> None:
    """Run the rounds and print a row for each side."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            runs[name].append(sides[name](prompts, tokens))
            assert all(len(output) == tokens for output in runs[name][-1].outputs), f"{name} lost tokens"
    first = names[0]
    for name in names:
        speeds = [len(prompts) * tokens / run.seconds for run in runs[name]]
        ratios = [own.seconds / run.seconds for own, run in zip(runs[first], runs[name], strict=True)]
        ttft = [statistics.median(run.ttft_s) * 1e3 for run in runs[name] if run.ttft_s]
        told = f"{_spread(ttft, 0)}" if ttft else "-"
        print(
            f"| {len(prompts)} | {name} | {_spread(speeds)} | {told} | {_spread([1 / ratio for ratio in ratios], 2)} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    arguments = _parse()
    checkpoint = ModelStore(cache_dir(None)).resolve(MODEL)
    tokenizer = QwenTokenizer.from_folder(checkpoint.folder)
    texts = [f"Write a Python function, variant {n}. " + "Explain each step. " * (4 + n % 7) for n in range(32)]
    prompts = [tokenizer.encode(text) for text in texts]
    print(
        f"{psutil.cpu_count()} CPUs, prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
        f"{arguments.tokens} output tokens; median (min-max) of {arguments.rounds} rounds\n\n"
        f"| streams | side | tokens/s | TTFT p50, ms | {arguments.sides[0]}'s speed over it |\n|---|---|---|---|---|"
    )
    with contextlib.ExitStack() as stack:
        make = {name: SIDES[name](checkpoint, max(arguments.streams)) for name in arguments.sides}
        sides = {name: stack.enter_context(side) for name, side in make.items()}
        for side in sides.values():
            side(prompts[: max(arguments.streams)], 2)  # warm; continuous batching sizes its cache by this run
        gc.collect()
        for streams in arguments.streams:
            compare(sides, prompts[:streams], arguments.tokens, arguments.rounds)


def _spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=lambda text: text.split(","), default=list(SIDES), help=", ".join(SIDES))
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
