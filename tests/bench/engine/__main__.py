"""The engine alone against its peers, on the same weights and prompts, greedy and of fixed length.

On a CPU: float32 against transformers' continuous batching, vLLM and transformers' `generate`; `q8` against OpenVINO
GenAI in 8 bits and llama.cpp on the published 4-bit file. Every side is a process of its own; peers that need an
environment of their own are installed under `build/` at first use. Every round runs every side of a group once, in an
order that turns, with prompts of its own; a ratio is of one round. Random weights of a known shape need no network, no
tokenizer and no Ray. All sides of a run share the accelerator: of the 7B shape one of `none`, `int8` and `nf4` fits
into 80 GB beside the two peers, so there it is a run for each. The group `parts` is what is measured without other
engines: the draw beside that of continuous batching, and what a known beginning saves.

    make bench-engine                                                   # everything; writes nothing into docs
    make bench-engine ARGS="--write"                                    # and docs/benchmarks-engine.md with its plots
    make bench-engine ARGS="--groups q8 --streams 1,8 --rounds 9"
    make bench-engine ARGS="--groups parts"                             # installs no peer
    make bench-engine ARGS="--device cuda --random qwen2.5-7b --sides none,continuous-batching,generate"
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import psutil
import torch

from qwire.engine.config import EngineConfig
from qwire.engine.loader import thread_count
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir
from qwire.text.tokenizer import QwenTokenizer
from tests.bench.engine.parts import measure_parts
from tests.bench.engine.peers import BUILD
from tests.bench.engine.random_checkpoint import SHAPES, write_random_checkpoint
from tests.bench.engine.report import report
from tests.bench.engine.results import Results
from tests.bench.engine.sides import CPU_GROUPS, RANDOM_GROUPS, Setup, fast_attention
from tests.bench.engine.suite import Plan, measure, saved
from tests.bench.engine.workload import Encode, random_tokens

MODEL = "qwen2.5-coder-0.5b-instruct"
PAGE = Path("docs/benchmarks-engine.md")
_PREAMBLE = """# The engine against its peers

Written by `make bench-engine ARGS="--write"`: medians over alternated rounds (least-most), greedy, output of fixed
length, prefill included. Every side is a process of its own with the same number of threads; memory is resident memory
of all of its processes. Absolute figures belong to the machine; ratios are the result.

`generate` and llama.cpp are measured at 1 and 8 requests only. `generate` answers one after the other, and llama.cpp
writes at 8 less than twice what it does at 1: more at once would take minutes a round and say the same, and requests
that arrive at the rate of the other sides would only queue up. Neither, as it is called here, keeps a beginning for the
next request, so they have no part in prompts that share one.

"""


def main() -> None:
    """Measure, print, and write where it is asked for."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, _end)
    if arguments.from_file:
        results = Results.load(arguments.from_file)
    else:
        results = _measure(arguments)
        print(f"\nkept in {saved(results)}\n")
    if arguments.write:
        from tests.bench.engine.plots import plot  # noqa: PLC0415 - only who writes needs matplotlib

        folder = arguments.write.parent
        plots = [str(path.relative_to(folder)) for path in plot(results, folder / "images")]
        arguments.write.write_text(_PREAMBLE + report(results, plots), encoding="utf-8")
    print(report(results, []))


def _end(number: int, _: object) -> None:
    """End as at an error: sides are stopped, and none is left behind with its memory."""
    sys.exit(128 + number)


def _measure(arguments: argparse.Namespace) -> Results:
    setup, encode, model = _random(arguments) if arguments.random else _default_model(arguments)
    rounds, few = arguments.rounds, min(arguments.rounds, arguments.few_rounds)
    lengths = [len(encode(f"{n}: write a Python function. " + "Explain each step. " * (4 + n % 7))) for n in range(7)]
    results = Results(
        f"{psutil.cpu_count()} CPUs{_device_name(arguments.device)}, {model}, prompts of about {min(lengths)} to "
        f"{max(lengths)} tokens, {arguments.tokens} output tokens, {rounds} rounds ({few} of arrivals and prefix)."
    )
    if not arguments.random:
        results.float32_bytes = sum(path.stat().st_size for path in setup.folder.glob("*.safetensors"))
        if arguments.sides is None and (arguments.groups is None or "parts" in arguments.groups):
            measure_parts(results, rounds)
    plan = Plan(
        streams=arguments.streams,
        tokens=arguments.tokens,
        rounds=rounds,
        arrivals=arguments.arrivals,
        rate_per_s=arguments.rate,
        sharing=arguments.sharing,
        few_rounds=few,
        seed=arguments.seed,
    )
    groups = RANDOM_GROUPS if arguments.random else CPU_GROUPS
    for name, sides in groups.items():
        wanted = [side for side in sides if arguments.sides is None or side in arguments.sides]
        if wanted and (arguments.groups is None or name in arguments.groups):
            measure(wanted, setup, plan, encode, results)
    return results


def _default_model(arguments: argparse.Namespace) -> tuple[Setup, Encode, str]:
    if arguments.device != "cpu":
        raise SystemExit("the default model is compared on a CPU; use --random on other devices")
    checkpoint = ModelStore(cache_dir(None)).resolve(MODEL)
    gguf = next((cache_dir(None) / "files").rglob("*.gguf"), None)
    threads = thread_count(EngineConfig())
    setup = Setup(checkpoint.folder, gguf, "cpu", "float32", threads, max(arguments.streams))
    return setup, QwenTokenizer.from_folder(checkpoint.folder).encode, MODEL


def _random(arguments: argparse.Namespace) -> tuple[Setup, Encode, str]:
    dtype = "float32" if arguments.device == "cpu" else "float16"
    folder = BUILD / f"bench-random-{arguments.random}-{dtype}"
    write_random_checkpoint(folder, arguments.random, getattr(torch, dtype))
    attention = fast_attention(arguments.device)
    threads, streams = thread_count(EngineConfig()), max(arguments.streams)
    setup = Setup(folder, None, arguments.device, dtype, threads, streams, attention)
    encode = random_tokens(SHAPES[arguments.random]["vocab_size"])
    model = f"random weights of {arguments.random}'s shape in {dtype}"
    if arguments.device != "cpu":
        model += f", continuous batching with {attention or 'no flash attention, as none is installed'}"
    return setup, encode, model


def _device_name(device: str) -> str:
    return "" if device == "cpu" else f", {torch.cuda.get_device_name(device)}"


def _parse() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=names, help=f"of {', '.join(CPU_GROUPS)}, parts; default: all")
    parser.add_argument("--sides", type=names, help="default: all of the groups")
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=32, help="output tokens of each request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arrivals", type=int, default=24, help="requests of the Poisson run; 0 = none")
    parser.add_argument("--rate", type=float, help="of them a second; default: half of what the first side can answer")
    parser.add_argument("--sharing", type=int, default=4, help="requests that share 1,000 tokens; 0 = none")
    parser.add_argument("--few-rounds", type=int, default=2, help="of these two runs")
    parser.add_argument("--seed", type=int, default=1, help="of prompts and arrivals")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--random", choices=SHAPES, help="random weights of this shape")
    parser.add_argument("--from-file", type=Path, help="report what an earlier run kept, and measure nothing")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, metavar="PAGE", help=f"write a page and its plots; default {PAGE}"
    )
    arguments = parser.parse_args()
    if arguments.tokens < 2:
        parser.error("--tokens must be at least 2: times between tokens are measured")
    return arguments


if __name__ == "__main__":
    main()
